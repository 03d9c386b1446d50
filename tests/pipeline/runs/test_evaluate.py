from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from rich.console import Console
from sklearn.metrics import roc_auc_score

import nas
from cache_schemas.features import FeatureCache, FeatureCacheError
from cache_schemas.run import RetrainRun, RunFileError, read_run, write_run
from pipeline.params import Params
from pipeline.runs.cache import cache_identity
from pipeline.runs.evaluate import EvaluateError, evaluate, print_metrics
from pipeline.statistics.measure import measure
from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import make_index, make_scores, make_workspace


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, Any]]:
    # Test rows between train rows: whatever is paired by position alone comes out wrong.
    workspace = make_workspace(tmp_path_factory.mktemp("work"), make_index())
    return workspace, evaluate(workspace, Params(), device="cpu")


def test_every_test_window_is_scored_by_its_own_features(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, _ = finished
    scores = pd.read_csv(workspace.evaluate / "scores.csv")
    cache = FeatureCache.open(workspace.features)
    run = read_run(workspace.retrain / "retrain.json", RetrainRun)
    assert len(scores) == 6 * (cache.index["split"] == "test").sum()
    everything = cache.load()
    where = {(row.clip_id, row.window): i for i, row in enumerate(cache.index.itertuples())}
    for entry in run.entries:
        network = nas.CompactNetwork.from_spec(entry.spec)
        network.load_state_dict(safetensors.torch.load_file(workspace.retrain / entry.weights))
        expected = network.predict(everything).numpy()
        rows = scores[(scores["network"] == entry.network) & (scores["seed"] == entry.seed)]
        ours = [expected[where[row.clip_id, row.window]] for row in rows.itertuples()]
        assert rows["score"].to_numpy() == pytest.approx(np.array(ours), abs=1e-5)
    assert scores["score"].nunique() > 100  # and they differ


def test_only_the_test_split_is_scored(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, _ = finished
    scores = pd.read_csv(workspace.evaluate / "scores.csv")
    index = make_index()
    assert set(scores["clip_id"]) == set(index.loc[index["split"] == "test", "clip_id"])
    assert list(scores) == [
        "clip_id", "window", "start_s", "subject_id", "category", "method", "label", "clip_category",
        "network", "seed", "score",
    ]  # fmt: skip


def test_a_fake_clip_without_a_fake_window_is_a_fake_clip(tmp_path: Path) -> None:
    """The half second that is fake may be too little in each window, or where no face is seen."""
    index, unseen = make_index(), ["s04-RVFA", "s09-FVRA", "s09-FVFA"]
    hidden = index["clip_id"].isin(unseen)
    index.loc[hidden, ["label", "video_label", "audio_label", "category"]] = (0, 0, 0, "RVRA")
    workspace = make_workspace(tmp_path, index)
    result = evaluate(workspace, Params(), device="cpu")
    whole = measure(make_index(), make_scores(make_index()))
    assert result["counts"] == whole["counts"]
    fusion = result["networks"]["fusion"]
    for kind in ("per_category", "per_method"):
        counts = {name: of["n_fake"] for name, of in fusion[kind].items()}
        assert counts == {name: of["n_fake"] for name, of in whole["networks"]["fusion"][kind].items()}
    scores = pd.read_csv(workspace.evaluate / "scores.csv")
    assert not scores.loc[scores["clip_id"].isin(unseen), "label"].any(), "of windows each has its own"
    of_clip = scores[scores["network"] == "fusion"].groupby("clip_id")["score"].mean()
    labels = (of_clip.index.str[-4:] != "RVRA").astype(int)
    assert fusion["seed_average"]["auc"]["value"] == pytest.approx(roc_auc_score(labels, of_clip))


def test_what_stands_in_for_missing_sound_is_not_heard(tmp_path: Path) -> None:
    index = make_index(subjects=5, categories=("RVRA", "FVFA", "RV-", "FV-"))
    tables = []
    for silence in (0.0, 5.0):
        workspace = make_workspace(tmp_path / str(silence), index, silence=silence)
        evaluate(workspace, Params(), device="cpu")
        tables.append(pd.read_csv(workspace.evaluate / "scores.csv"))
    pd.testing.assert_frame_equal(*tables)
    mute = tables[0][tables[0]["category"].str.endswith("-")]
    assert mute[mute["network"] == "audio"].groupby("seed")["score"].nunique().tolist() == [1, 1], "nothing is known"
    assert mute[mute["network"] == "fusion"]["score"].nunique() == 8


def test_a_clip_that_the_manifest_does_not_know_is_named(tmp_path: Path) -> None:
    index = make_index(subjects=5)
    workspace = make_workspace(tmp_path, index, seeds=[0])
    lines = workspace.manifest.read_text().splitlines(keepends=True)
    workspace.manifest.write_text("".join(lines[:-1]))
    with pytest.raises(FeatureCacheError, match=r"manifest\.csv lacks s04/FVFA\.mp4"):
        evaluate(workspace, Params(), device="cpu")


def test_files_agree_with_the_returned_metrics(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, result = finished
    assert json.loads((workspace.evaluate / "metrics.json").read_text()) == result
    assert json.loads((workspace.evaluate / "summary.json").read_text()) == result["summary"]
    identity = cache_identity(FeatureCache.open(workspace.features))
    measured = measure(make_index(), pd.read_csv(workspace.evaluate / "scores.csv"))
    assert result == measured | {"cache": identity, "trained_on": ""}
    assert list(pd.read_csv(workspace.evaluate / "roc.csv")) == ["network", "fpr", "tpr"]
    assert list(pd.read_csv(workspace.evaluate / "det.csv")) == ["network", "fpr", "fnr"]


def test_a_second_evaluation_writes_the_same_bytes(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, _ = finished
    before = {path.name: path.read_bytes() for path in workspace.evaluate.iterdir()}
    evaluate(workspace, Params(), device="cpu")
    assert {path.name: path.read_bytes() for path in workspace.evaluate.iterdir()} == before


def test_batches_do_not_change_scores(
    finished: tuple[Workspace, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, result = finished
    monkeypatch.setattr("pipeline.runs.evaluate._BATCH_WINDOWS", 3)
    again = evaluate(workspace, Params(), device="cpu")
    assert again["networks"]["fusion"]["window"]["auc"]["mean"] == pytest.approx(
        result["networks"]["fusion"]["window"]["auc"]["mean"], abs=1e-3
    )
    assert again["counts"] == result["counts"]


def test_a_diverged_network_is_named(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, make_index(subjects=5), seeds=[4])
    path = workspace.retrain / "audio-4.safetensors"
    broken = {name: torch.full_like(tensor, float("nan")) for name, tensor in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(broken, path)
    with pytest.raises(EvaluateError, match="network audio, seed 4: 8 of 8 scores are not finite"):
        evaluate(workspace, Params(), device="cpu")
    assert not workspace.evaluate.exists()


def test_an_empty_test_split_says_so(tmp_path: Path) -> None:
    index = make_index(subjects=5)
    workspace = make_workspace(tmp_path, index[index["split"] != "test"], seeds=[0])
    with pytest.raises(EvaluateError, match="no window is in the test split"):
        evaluate(workspace, Params(), device="cpu")


def test_features_of_other_backbones_are_refused(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, make_index(subjects=5), seeds=[0])
    path = workspace.retrain / "retrain.json"
    run = read_run(path, RetrainRun)
    write_run(path, run.model_copy(update={"backbones": {"visual": {"name": "another"}}}))
    with pytest.raises(EvaluateError, match="other backbones"):
        evaluate(workspace, Params(), device="cpu")


def test_missing_run_names_the_stage(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, make_index(subjects=5), seeds=[0])
    (workspace.retrain / "retrain.json").unlink()
    with pytest.raises(RunFileError, match="bmnas retrain"):
        evaluate(workspace, Params(), device="cpu")


def printed(result: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=140)
    print_metrics(result, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_print_shows_the_numbers_and_the_warnings() -> None:
    index = make_index()
    result = measure(index, make_scores(index))
    text = printed(result)
    for name in ("fusion", "visual", "audio"):
        clip = result["networks"][name]["clip"]
        assert f"{clip['auc']['mean']:.3f} ± {clip['auc']['std']:.3f}" in text
        assert f"{clip['eer']['mean']:.3f}" in text
        assert f"{clip['auc_interval']['low']:.3f} to" in text
    assert "too few to claim an accuracy" in " ".join(text.split())


def test_print_survives_undefined_metrics() -> None:
    index = make_index(categories=("FVRA", "FVFA"))
    assert "undefined" in printed(measure(index, make_scores(index)))


def test_networks_may_be_tried_on_other_clips_and_it_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    workspace = make_workspace(tmp_path, make_index(subjects=5), seeds=[0])
    path = workspace.retrain / "retrain.json"
    identity = cache_identity(FeatureCache.open(workspace.features))
    for trained_on, said in ((identity, False), ("of other clips", True), ("", False)):
        write_run(path, read_run(path, RetrainRun).model_copy(update={"cache": trained_on}))
        result = evaluate(workspace, Params(), device="cpu")
        assert (result["cache"], result["trained_on"]) == (identity, trained_on)
        assert ("trained on other windows or splits" in " ".join(capfd.readouterr().err.split())) == said
