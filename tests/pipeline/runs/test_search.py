"""The stages search and retrain: on how many workers makes no difference."""

from pathlib import Path

import pytest

from pipeline.runs.cache import Source
from pipeline.runs.retrain import run_retrain
from pipeline.runs.search import run_search
from tests.pipeline.run_fixture import make_index, make_workspace
from tests.pipeline.small_experiments import small


def test_two_worker_processes_find_and_train_what_one_process_does(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, make_index())
    found, trained = [], []
    for workers in (1, 2):
        params = small(seeds=[3, 5], compute={"workers": workers, "device": "cpu"})
        found.append(run_search(workspace, params))
        trained.append(run_retrain(workspace, params))
    assert [(e.network, e.seed) for e in found[1].entries] == [
        (network, seed) for network in ("fusion", "visual", "audio") for seed in (3, 5)
    ]
    for one, two in zip(found[0].entries, found[1].entries, strict=True):
        assert (one.network, one.seed, one.genotype) == (two.network, two.seed, two.genotype)
        assert one.curves[-1]["val_loss"] == pytest.approx(two.curves[-1]["val_loss"], abs=1e-4)
    for one, two in zip(trained[0].entries, trained[1].entries, strict=True):
        assert (one.network, one.seed, one.weights) == (two.network, two.seed, two.weights)
        assert one.curves[-1]["val_loss"] == pytest.approx(two.curves[-1]["val_loss"], abs=1e-4)
        assert (workspace.retrain / two.weights).is_file()


def test_a_cache_that_has_changed_is_loaded_again(tmp_path: Path) -> None:
    index = make_index()
    workspace = make_workspace(tmp_path, index)
    before = Source.of(workspace, small()).windows()
    assert Source.of(workspace, small()).windows() is before
    index["label"] = 1 - index["label"]
    make_workspace(tmp_path, index)
    assert (Source.of(workspace, small()).windows().labels == 1 - before.labels).all()
