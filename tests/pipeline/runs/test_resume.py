"""The stages search and retrain: what is finished is kept, and a run that fails leaves the others as they are."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import nas
import pipeline.runs.jobs
import pipeline.runs.retrain
import pipeline.runs.search
from cache_schemas.run import RetrainRun, SearchRun, read_run
from pipeline.report.stage import build_report
from pipeline.runs.evaluate import evaluate
from pipeline.runs.jobs import JobError
from pipeline.runs.retrain import run_retrain
from pipeline.runs.search import run_search
from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import make_index, make_workspace, write_evaluation
from tests.pipeline.small_experiments import SEARCH, failing, small
from tests.soak.sweep_kill import RETRAINING, SEARCHING

PARAMS = small(seeds=[3, 5], search=SEARCH | {"derive": "argmax"})


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Searched and retrained without a disturbance, in batches of one run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pipeline.runs.jobs.MOST_RUNS, "cpu", 1)
        workspace = make_workspace(tmp_path_factory.mktemp("calm") / "work", make_index(), seeds=())
        run_search(workspace, PARAMS)
        run_retrain(workspace, PARAMS)
    return workspace


@pytest.fixture
def rough(calm: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The same cache, nothing done."""
    monkeypatch.setitem(pipeline.runs.jobs.MOST_RUNS, "cpu", 1)
    shutil.copytree(calm.features, tmp_path / "features.zarr")
    shutil.copytree(calm.manifest.parent, tmp_path / "manifest")
    return Workspace(tmp_path)


def watched(name: str, monkeypatch: pytest.MonkeyPatch, look: Callable[[int], None] = lambda calls: None) -> list[int]:
    """How many runs each call of nas.search or nas.retrain had; look: is told how many calls there were."""
    real, sizes = getattr(nas, name), []

    @functools.wraps(real)
    def call(*args: Any, **kwargs: Any) -> Any:
        look(len(sizes))
        results = real(*args, **kwargs)
        sizes.append(len(results))
        return results

    monkeypatch.setattr(nas, name, call)
    return sizes


def interrupt(calls: int) -> None:
    """Ends the third call."""
    if calls == 2:
        raise KeyboardInterrupt


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["search", "retrain"])
def test_an_interrupted_stage_goes_on_and_ends_with_the_same_bytes(
    name: str,
    calm: Workspace,
    rough: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    stage = {"search": run_search, "retrain": run_retrain}[name]
    if name == "retrain":
        shutil.copytree(calm.search, rough.search)
    with monkeypatch.context() as patch:
        watched(name, patch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            stage(rough, PARAMS)
    assert not (getattr(rough, name) / f"{name}.json").exists()
    sizes = watched(name, monkeypatch)
    capfd.readouterr()
    stage(rough, PARAMS)
    assert 2 < len(sizes) <= 4, "networks of one seed may have found the same architecture"
    assert sum(sizes) == len(sizes)
    left = f"{name}: {2 + len(sizes)} runs: 2 already done, {len(sizes)} to do"
    assert left in " ".join(capfd.readouterr().err.split())
    assert contents(getattr(rough, name)) == contents(getattr(calm, name))
    before = len(sizes)
    stage(rough, PARAMS)
    assert len(sizes) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["search", "retrain"])
def test_a_killed_process_loses_the_batch_that_it_was_at(
    name: str, calm: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make soak-sweep_kill` does it ten times each."""
    monkeypatch.setitem(pipeline.runs.jobs.MOST_RUNS, "cpu", 1)
    command, stage = {"search": (SEARCHING, run_search), "retrain": (RETRAINING, run_retrain)}[name]
    rough = Workspace(tmp_path / "work")
    shutil.copytree(calm.features, rough.features)
    if name == "retrain":
        shutil.copytree(calm.search, rough.search)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS.model_dump(mode="json")))
    command.kill(tmp_path, seconds=120, batches=2, batch_runs=1)
    kept, whole = command.batches(tmp_path), command.batches(calm.root.parent)
    assert 2 <= len(kept) < len(whole)
    sizes = watched(name, monkeypatch)
    stage(rough, PARAMS)
    assert len(sizes) == len(whole) - len(kept)
    assert kept.items() <= command.batches(tmp_path).items(), "a finished batch was written again"
    assert command.contents(tmp_path) == command.contents(calm.root.parent)


def test_finished_networks_outlive_their_stages_folder(
    calm: Workspace, rough: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC removes a stage's outputs before it runs the stage."""
    for folder in (calm.search, calm.runs, calm.retrain):
        shutil.copytree(folder, rough.root / folder.name)
    shutil.rmtree(rough.retrain)
    sizes = watched("retrain", monkeypatch)
    run_retrain(rough, PARAMS)
    assert sizes == []
    assert contents(rough.retrain) == contents(calm.retrain)
    weights = next((rough.runs / "trainings").glob("*.safetensors"))
    weights.unlink()
    run_retrain(rough, PARAMS)
    assert sizes == [1], "without its weights a training is not finished"
    assert weights.exists()


def test_what_is_stored_names_the_cache(calm: Workspace) -> None:
    search, retrain = (
        read_run(calm.search / "search.json", SearchRun),
        read_run(calm.retrain / "retrain.json", RetrainRun),
    )
    metrics = evaluate(calm, PARAMS, device="cpu")
    assert search.cache == retrain.cache == metrics["cache"] == metrics["trained_on"] != ""
    assert all(entry.score is not None and 0 <= entry.score <= 1 for entry in search.entries)


def test_a_failed_search_is_marked_and_the_others_go_on(
    rough: Workspace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(pipeline.runs.jobs.MOST_RUNS, "cpu", 8)
    failing("search", {5}, monkeypatch)
    run = run_search(rough, PARAMS)
    assert [(entry.network, entry.seed) for entry in run.entries] == [("fusion", 3), ("visual", 3), ("audio", 3)]
    assert [(failed.name, failed.seed) for failed in run.failed] == [("fusion", 5), ("visual", 5), ("audio", 5)]
    assert all("seed 5 diverged in epoch 1" in failed.reason for failed in run.failed)
    assert read_run(rough.search / "search.json", SearchRun) == run
    monkeypatch.undo()
    failing("retrain", set(), monkeypatch)
    assert [entry.seed for entry in run_retrain(rough, PARAMS).entries] == [3, 3, 3]
    said = " ".join(capfd.readouterr().err.split())
    assert "3 of 6 runs failed" in said
    assert "retrain: fusion, seed 5 is left out: its search failed" in said
    write_evaluation(rough, make_index())
    page = build_report(rough, PARAMS).read_text()
    assert "A search of the fusion network failed and is in no number of this report: seed 5 diverged" in page


def test_where_every_fusion_run_failed_the_stage_fails_with_the_reasons(
    calm: Workspace, rough: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing("search", {3, 5}, monkeypatch)
    with pytest.raises(
        JobError, match=r"search: no fusion network is left:\n  fusion: seed 3 diverged.*\n  fusion: seed 5"
    ):
        run_search(rough, PARAMS)
    assert not (rough.search / "search.json").exists()
    shutil.copytree(calm.search, rough.search)
    failing("retrain", {3, 5}, monkeypatch)
    with pytest.raises(JobError, match="retrain: no fusion network is left"):
        run_retrain(rough, PARAMS)


def test_a_failed_training_is_marked_and_the_others_go_on(
    calm: Workspace, rough: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pipeline.runs.jobs.MOST_RUNS, "cpu", 8)
    shutil.copytree(calm.search, rough.search)
    failing("retrain", {3}, monkeypatch)
    run = run_retrain(rough, PARAMS)
    assert [entry.seed for entry in run.entries] == [5, 5, 5]
    assert [(failed.name, failed.seed) for failed in run.failed] == [("fusion", 3), ("visual", 3), ("audio", 3)]
    assert sorted(path.name for path in rough.retrain.glob("*.safetensors")) == [
        "audio-5.safetensors", "fusion-5.safetensors", "visual-5.safetensors",
    ]  # fmt: skip


def test_after_a_change_of_nas_nothing_is_already_done(
    calm: Workspace, rough: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (calm.search, calm.runs):
        shutil.copytree(folder, rough.root / folder.name)
    searched, trained = watched("search", monkeypatch), watched("retrain", monkeypatch)
    for module in (pipeline.runs.search, pipeline.runs.retrain):
        monkeypatch.setattr(module, "code_version", lambda *functions: "another")
    run_search(rough, PARAMS)
    run_retrain(rough, PARAMS)
    assert sum(searched) == 6
    assert sum(trained) >= 5, "networks of one seed may have found the same architecture"
