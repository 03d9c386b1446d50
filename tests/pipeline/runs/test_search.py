"""The stages search and retrain: on how many workers makes no difference."""

from pathlib import Path

import pytest

from cache_schemas.run import SearchRun, read_run
from pipeline.detector.export import load_networks
from pipeline.runs.cache import Source
from pipeline.runs.evaluate import evaluate
from pipeline.runs.retrain import run_retrain
from pipeline.runs.search import run_search
from tests.pipeline.run_fixture import make_index, make_workspace
from tests.pipeline.small_experiments import SEARCH, small


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


def test_every_member_is_trained_with_a_seed_of_its_own(tmp_path: Path) -> None:
    """Of k members a search, that at a place has the seed k * seed + place; one member has that of its search."""
    workspace = make_workspace(tmp_path, make_index())
    for count in (1, 2):
        params = small(seeds=[3, 5], search={**SEARCH, "members": count, "rungs": [1]})
        searched, run = run_search(workspace, params), run_retrain(workspace, params)
        assert read_run(workspace.search / "search.json", SearchRun) == searched
        for network in ("fusion", "visual", "audio"):
            members = [m for e in searched.entries if e.network == network for m in e.members]
            trained = [e for e in run.entries if e.network == network]
            assert [e.genotype for e in trained] == [m.genotype for m in members]
            assert all(m.trained is not None for m in members)
            assert [e.search for e in trained] == [seed for seed in (3, 5) for _ in range(count)]
            assert [e.seed for e in trained] == [count * seed + place for seed in (3, 5) for place in range(count)]
            assert len({e.weights for e in trained}) == 2 * count


@pytest.mark.usefixtures("few_draws")
def test_what_is_evaluated_and_exported_is_the_mean_of_all_members(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, make_index())
    params = small(seeds=[3], search={**SEARCH, "members": 2, "rungs": []})
    run_search(workspace, params)
    run_retrain(workspace, params)
    result = evaluate(workspace, params, device="cpu")
    assert result["systems"]["fusion"]["seeds"] == list(load_networks(workspace, "fusion", None).seeds) == [6, 7]


def test_a_cache_that_has_changed_is_loaded_again(tmp_path: Path) -> None:
    index = make_index()
    workspace = make_workspace(tmp_path, index)
    before = Source.of(workspace, small()).windows()
    assert Source.of(workspace, small()).windows() is before
    index["label"] = 1 - index["label"]
    make_workspace(tmp_path, index)
    assert (Source.of(workspace, small()).windows().labels == 1 - before.labels).all()
