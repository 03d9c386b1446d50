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
from cache_schemas.evaluation import SCORES, read_evaluation
from cache_schemas.features import FeatureCache, FeatureCacheError
from cache_schemas.run import RetrainRun, RunFileError, read_run, write_run
from pipeline.controls.properties import CONTROLS
from pipeline.params import Params
from pipeline.runs.cache import cache_identity
from pipeline.runs.evaluate import EvaluateError, evaluate, print_metrics
from pipeline.statistics.measure import measure
from pipeline.statistics.shortcuts import SHORTCUTS
from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import make_index, make_workspace, measured

pytestmark = pytest.mark.usefixtures("few_draws")


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
    networks = scores[scores["system"].isin(["fusion", "visual", "audio"])]
    assert len(networks) == 6 * (cache.index["split"] != "train").sum()
    everything = cache.load()
    where = {(row.clip_id, row.window): i for i, row in enumerate(cache.index.itertuples())}
    for entry in run.entries:
        network = nas.CompactNetwork.from_spec(entry.spec)
        network.load_state_dict(safetensors.torch.load_file(workspace.retrain / entry.weights))
        expected = network.predict(everything).numpy()
        rows = scores[(scores["system"] == entry.network) & (scores["seed"] == entry.seed)]
        ours = [expected[where[row.clip_id, row.window]] for row in rows.itertuples()]
        assert rows["score"].to_numpy() == pytest.approx(np.array(ours), abs=1e-5)
    assert scores["score"].nunique() > 100  # and they differ


def test_val_and_test_are_scored_train_is_not(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, _ = finished
    scores = pd.read_csv(workspace.evaluate / "scores.csv")
    index = make_index()
    for split in ("val", "test"):
        clips = scores.loc[scores["split"] == split, "clip_id"]
        assert set(clips) == set(index.loc[index["split"] == split, "clip_id"])
    assert list(scores) == list(SCORES)
    ends = (scores["start_s"] + 4).clip(upper=scores["clip_id"].map(index.groupby("clip_id")["duration_s"].first()))
    assert scores["end_s"].to_numpy() == pytest.approx(ends.to_numpy())


def test_every_clip_is_told_with_its_properties(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, _ = finished
    clips, index = read_evaluation(workspace.evaluate)[0].set_index("clip_id"), make_index()
    assert set(clips.index) == set(index["clip_id"])
    assert set(clips["windows"]) == {2}
    first = index.drop_duplicates("clip_id").set_index("clip_id")
    for name in (*SHORTCUTS, "split", "dataset", "subject_id", "has_audio"):
        pd.testing.assert_series_equal(clips[name], first.loc[clips.index, name], check_dtype=False)


def test_controls_are_scored_beside_the_networks(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, result = finished
    controls = {name for name, of in result["systems"].items() if of["kind"] == "control"}
    assert {*CONTROLS, "logistic regression, all layers", "SVM, all layers"} <= controls
    _, scores = read_evaluation(workspace.evaluate)
    of_property = scores[scores["system"] == CONTROLS[0]]
    assert (of_property.groupby("clip_id")["score"].nunique() == 1).all(), "a clip's property is that of its windows"


def test_a_fake_clip_without_a_fake_window_is_a_fake_clip(tmp_path: Path) -> None:
    """The half second that is fake may be too little in each window, or where no face is seen."""
    index, unseen = make_index(), ["s04-RVFA", "s09-FVRA", "s09-FVFA"]
    hidden = index["clip_id"].isin(unseen)
    index.loc[hidden, ["label", "video_label", "audio_label", "category"]] = (0, 0, 0, "RVRA")
    workspace = make_workspace(tmp_path, index)
    result = evaluate(workspace, Params(), device="cpu")
    whole = measured(make_index())
    assert result["counts"] == whole["counts"]
    fusion = result["systems"]["fusion"]
    for kind in ("per_category", "per_method"):
        counts = {name: of["n_fake"] for name, of in fusion[kind].items()}
        assert counts == {name: of["n_fake"] for name, of in whole["systems"]["fusion"][kind].items()}
    scores = pd.read_csv(workspace.evaluate / "scores.csv")
    assert not scores.loc[scores["clip_id"].isin(unseen), "label"].any(), "of windows each has its own"
    mine = scores[(scores["system"] == "fusion") & (scores["split"] == "test")]
    of_clip = mine.groupby("clip_id")["score"].mean()
    labels = (of_clip.index.str[-4:] != "RVRA").astype(int)
    assert fusion["clip"]["auc"]["value"] == pytest.approx(roc_auc_score(labels, of_clip))


def test_what_stands_in_for_missing_sound_is_not_heard(tmp_path: Path) -> None:
    index = make_index(subjects=5, categories=("RVRA", "FVFA", "RV-", "FV-"))
    tables = []
    for silence in (0.0, 5.0):
        workspace = make_workspace(tmp_path / str(silence), index, silence=silence)
        evaluate(workspace, Params(), device="cpu")
        tables.append(pd.read_csv(workspace.evaluate / "scores.csv"))
    pd.testing.assert_frame_equal(*tables)
    mute = tables[0][tables[0]["category"].str.endswith("-") & (tables[0]["split"] == "test")]
    assert mute[mute["system"] == "audio"].groupby("seed")["score"].nunique().tolist() == [1, 1], "nothing is known"
    assert mute[mute["system"] == "fusion"]["score"].nunique() == 8


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
    tables = read_evaluation(workspace.evaluate)
    assert [each["check"] for each in result["audit"]][:2] == ["leading silence", "resolution"]
    assert (result["looks"]["times"], result["looks"]["by"]) == (1, {"evaluate": 1})
    about = {"seed": 0, "cache": identity, "trained_on": "", "audit": result["audit"], "looks": result["looks"]}
    assert result == measure(*tables) | about
    assert list(pd.read_csv(workspace.evaluate / "roc.csv")) == ["system", "fpr", "tpr"]
    assert list(pd.read_csv(workspace.evaluate / "det.csv")) == ["system", "fpr", "fnr"]


def test_a_second_evaluation_writes_the_same_bytes(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, _ = finished
    before = {path.name: path.read_bytes() for path in workspace.evaluate.iterdir()}
    evaluate(workspace, Params(), device="cpu")
    assert {path.name: path.read_bytes() for path in workspace.evaluate.iterdir()} == before


def test_batches_do_not_change_scores(
    finished: tuple[Workspace, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, result = finished
    monkeypatch.setattr("pipeline.runs.scoring._BATCH_WINDOWS", 3)
    again = evaluate(workspace, Params(), device="cpu")
    assert again["systems"]["fusion"]["window"]["auc"]["value"] == pytest.approx(
        result["systems"]["fusion"]["window"]["auc"]["value"], abs=1e-3
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
    console = Console(file=io.StringIO(), width=200)
    print_metrics(result, ["it can support neither side"], console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_print_shows_the_numbers_and_the_warnings() -> None:
    index = make_index()
    result = measured(index)
    audit = [{"check": "resolution", "found": True, "says": "it tells"}, {"check": "x", "found": False, "says": "no"}]
    text = printed(result | {"audit": audit, "looks": {"times": 7, "test": "t", "by": {"sweep": 4, "evaluate": 3}}})
    assert "Warning: it can support neither side" in text
    assert "Warning: It tells" in text
    assert "Warning: No" not in text
    assert "This test set has been looked at 7 times (sweep 4, evaluate 3)" in " ".join(text.split())
    for name in ("fusion", "visual", "audio"):
        clip, one = result["systems"][name]["clip"], result["systems"][name]["one_network"]["auc"]
        assert f"{clip['auc']['value']:.3f} ({clip['auc']['low']:.2f}-{clip['auc']['high']:.2f})" in text
        assert f"{clip['eer']['value']:.3f}" in text
        assert f"{one['mean']:.3f} ± {one['std']:.3f}" in text
    assert " ".join(result["headline"]["sentence"].split()) in " ".join(text.split())
    assert "too few to claim an accuracy" in " ".join(text.split())


def test_print_survives_undefined_metrics() -> None:
    index = make_index(categories=("FVRA", "FVFA"))
    assert "undefined" in printed(measured(index))


def test_networks_may_be_tried_on_other_clips_and_it_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    workspace = make_workspace(tmp_path, make_index(subjects=5), seeds=[0])
    path = workspace.retrain / "retrain.json"
    identity = cache_identity(FeatureCache.open(workspace.features))
    for trained_on, said in ((identity, False), ("of other clips", True), ("", False)):
        write_run(path, read_run(path, RetrainRun).model_copy(update={"cache": trained_on}))
        result = evaluate(workspace, Params(), device="cpu")
        assert (result["cache"], result["trained_on"]) == (identity, trained_on)
        assert ("trained on other windows or splits" in " ".join(capfd.readouterr().err.split())) == said
