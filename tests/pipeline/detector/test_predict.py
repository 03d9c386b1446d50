"""Command `predict`: the answers to new files are those of evaluate, or "cannot tell" and why."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cache_schemas.evidence import Evidence, write_evidence
from cache_schemas.features import FeatureCache
from cache_schemas.files import file_sha256
from cache_schemas.run import RetrainRun, RunFileError, read_run
from pipeline import media
from pipeline.detector.bundle import make_bundle
from pipeline.detector.by_torch import torch_parts
from pipeline.detector.opened import open_bundle
from pipeline.detector.predict import Detector, predict
from pipeline.detector.road import Road
from pipeline.workspace import Workspace
from tests.pipeline.detector.conftest import Run, part_of
from tests.pipeline.small_install import without


def test_clips_csv_says_what_answers_depend_on(evaluated: Run) -> None:
    clips = pd.read_csv(evaluated[0].evaluate / "clips.csv")
    assert clips["face_share"].between(0.5, 1).all()
    assert clips["speech_s"].between(1, 4).all()
    of_split = clips.groupby("split")[["visual_distance", "audio_distance"]].median()
    assert (of_split.loc["val"] > of_split.loc["train"]).all()


def test_predict_gives_the_scores_of_evaluate(
    evaluated: Run, synth_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """New files go down the same road: a test clip's score and distances are those that evaluate writes."""
    workspace, params = evaluated
    scores = pd.read_csv(workspace.evaluate / "scores.csv", dtype={"clip_id": str})
    of_test = scores[scores["split"] == "test"].groupby(["system", "clip_id"])["score"].mean()
    fusion = of_test["fusion"]
    clips = pd.read_csv(workspace.evaluate / "clips.csv", dtype={"clip_id": str}).set_index("clip_id")
    videos = [synth_root / clips.loc[clip_id, "path"] for clip_id in fusion.index[:2]]
    bad = tmp_path / "-bad name.mp4"
    bad.write_text("no video")
    predictions = list(predict(workspace, [*videos, bad, tmp_path / "none.mp4"], params.compute))
    assert "random weights" not in capsys.readouterr().err  # no answer depends on them
    assert [p.score for p in predictions[:2]] == pytest.approx(list(fusion[:2]), abs=1e-6)
    for name in ("visual", "audio"):
        told = [p.modalities[name].score for p in predictions[:2]]
        assert told == pytest.approx(list(of_test[name][:2]), abs=1e-6)
    by_seed = scores[scores["system"] == "fusion"].pivot_table(index="clip_id", columns="seed", values="score")
    spread = by_seed.max(axis=1) - by_seed.min(axis=1)
    told = [p.quantities["spread"] for p in predictions[:2]]
    assert told == pytest.approx(list(spread[fusion.index[:2]]), abs=1e-5)
    assert [len(p.windows) for p in predictions[:2]] == [1, 1]
    assert [p.path for p in predictions[:2]] == [str(video) for video in videos]
    for name in ("face_share", "speech_s", "visual_distance", "audio_distance"):
        told = [p.quantities[name] for p in predictions[:2]]
        assert told == pytest.approx(list(clips.loc[fusion.index[:2], name]), abs=1e-4)
    for answer in (predictions[0].answer, *predictions[0].modalities.values()):
        assert (answer.log10_lr is None) == bool(answer.reasons)
    assert set(predictions[0].modalities) == {"visual", "audio"}
    assert "not a media file" in predictions[2].reason
    assert predictions[2].answer.says == f"cannot tell: {predictions[2].reason}"
    assert predictions[3].reason == "the file does not exist"
    assert json.loads(json.dumps([asdict(p) for p in predictions]))[2]["score"] is None


def test_a_file_gets_the_features_that_the_cache_has_of_it(evaluated: Run, synth_root: Path) -> None:
    workspace, params = evaluated
    cache = FeatureCache.open(workspace.features)
    run = read_run(workspace.retrain / "retrain.json", RetrainRun)
    (walked,) = Road(params, torch_parts(workspace, run, params)).walk(synth_root / cache.index["path"][0])
    rows = np.flatnonzero(cache.index["clip_id"] == cache.index["clip_id"][0])
    assert walked.starts_s == tuple(cache.index["start_s"][rows])
    cached = cache.read(rows)
    assert walked.layers.keys() == cached.keys()
    for name, x in walked.layers.items():
        wanted = cached[name][0].numpy()
        assert x.dtype == wanted.dtype == np.float16
        np.testing.assert_allclose(x, wanted, rtol=2e-3, atol=1e-4)


def test_predictions_come_as_they_are_done(evaluated: Run, synth_root: Path) -> None:
    video = next((synth_root / "clips").glob("*.mp4"))

    def videos() -> Iterator[Path]:
        yield video
        raise RuntimeError("the second was asked for before the first was given")

    first = next(predict(evaluated[0], videos(), evaluated[1].compute))
    assert first.score is not None


def test_threads_and_processes_give_the_same_answers(evaluated: Run, synth_root: Path, tmp_path: Path) -> None:
    workspace, params = evaluated
    videos = [*sorted((synth_root / "clips").glob("*.mp4"))[:3], tmp_path / "none.mp4"]
    detector = Detector(workspace, params.compute)
    alone = [detector.score(video) for video in videos]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(detector.score, [*videos, *videos])) == [*alone, *alone]
    several = predict(workspace, videos, params.compute.model_copy(update={"workers": 2}))
    by_path = {prediction.path: prediction for prediction in several}
    for one in alone:
        assert by_path[one.path].reason == one.reason
        assert by_path[one.path].score == pytest.approx(one.score, abs=1e-6)


def test_predict_cannot_tell_of_what_is_unlike_and_of_hardly_any_face(
    evaluated: Run, synth_root: Path, tmp_path: Path
) -> None:
    """A clip whose sound is a noise, and one whose face is gone after its first seconds."""
    workspace, params = evaluated
    clips = pd.read_csv(workspace.evaluate / "clips.csv")
    video = synth_root / clips.loc[clips["split"] == "test", "path"].iloc[0]
    noise, gone = tmp_path / "noise.mkv", tmp_path / "gone.mkv"
    for target, graph in {
        noise: "[0:v]copy[v];anoisesrc=r=16000:a=0.5:d=4[a]",
        gone: "[0:v]tpad=stop_duration=20:color=gray[v];[0:a]aloop=loop=9:size=48000[a]",
    }.items():
        argv = ["-filter_complex", graph, "-map", "[v]", "-map", "[a]", "-c:v", "libx264", "-c:a", "flac", "-shortest"]
        subprocess.run([media.ffmpeg_exe(), "-v", "error", "-i", video, *argv, target], check=True)
    bounded = part_of(workspace, tmp_path)
    _bound_distances(bounded.evaluate, float(clips["audio_distance"].max()))
    unlike, hidden = predict(bounded, [noise, gone], params.compute)
    assert any(reason.startswith("unlike anything it was trained on: its sound") for reason in unlike.answer.reasons)
    assert unlike.answer.says.startswith("cannot tell: ")
    assert any("its sound" in reason for reason in unlike.modalities["audio"].reasons)
    assert not any("its sound" in reason for reason in unlike.modalities["visual"].reasons)
    assert unlike.score is not None
    assert unlike.answer.log10_lr is None
    assert any(reason.startswith("too little face: seen in ") for reason in hidden.answer.reasons)
    assert not any("face" in reason for reason in hidden.modalities["audio"].reasons)


def _bound_distances(folder: Path, most: float) -> None:
    """Two people in val support next to no limit: gives the evidence one at the farthest of the known clips."""
    content = json.loads((folder / "evidence.json").read_text())
    for system in content["systems"].values():
        system["limits"] |= {name: most for name in system["limits"] if name == "audio_distance"}
    write_evidence(folder, Evidence.model_validate(content | {"own": ""}))


@pytest.mark.parametrize("workers", [1, 2])
def test_predict_names_what_is_missing_of_a_run(trained: Run, tmp_path: Path, workers: int) -> None:
    workspace, compute = Workspace(tmp_path / "work"), trained[1].compute.model_copy(update={"workers": workers})
    with pytest.raises(RunFileError, match=r"retrain\.json does not exist: run `bmnas retrain` first"):
        next(predict(workspace, [tmp_path / "a.mp4"], compute))
    shutil.copytree(trained[0].retrain, workspace.retrain)
    with pytest.raises(RunFileError, match=r"evidence\.json does not exist: run `bmnas evaluate` first"):
        next(predict(workspace, [tmp_path / "a.mp4"], compute))


def test_a_bundle_answers_as_its_run_does(
    evaluated: Run, synth_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere, without the run."""
    workspace, params = evaluated
    video = next((synth_root / "clips").glob("*.mp4")).resolve()
    (of_run,) = predict(workspace, [video], params.compute)
    make_bundle(workspace, tmp_path / "detector.bmnas")
    monkeypatch.chdir(tmp_path)
    with open_bundle(Path("detector.bmnas")) as opened:
        (of_bundle,) = predict(opened, [video], params.compute)
    assert of_bundle == of_run
    assert of_bundle.score is not None


ALONE = """
import dataclasses, json
from bmnas import Detector
with Detector.load(sys.argv[1]) as detector:
    print(json.dumps([dataclasses.asdict(found) for found in detector.score_many(sys.argv[2:])]))
"""


def test_a_bundle_with_graphs_answers_the_same_without_torch(evaluated: Run, synth_root: Path, tmp_path: Path) -> None:
    """To 1e-4, with what the extra `predict` brings and no other package."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"the package {package} is not installed (extra onnx)")
    workspace, params = evaluated
    videos = sorted((synth_root / "clips").glob("*.mp4"))[:2]
    bundle = tmp_path / "detector.bmnas"
    assert make_bundle(workspace, bundle, onnx=True).manifest.version == 2
    said = json.loads(without(str(bundle), *map(str, videos), code=ALONE).stdout)
    for alone, by_torch in zip(said, predict(workspace, videos, params.compute), strict=True):
        assert alone["reason"] == by_torch.reason == ""
        assert [each["start_s"] for each in alone["windows"]] == [each.start_s for each in by_torch.windows]
        wanted = [each.score for each in by_torch.windows]
        assert [each["score"] for each in alone["windows"]] == pytest.approx(wanted, abs=1e-4)
        for name, answer in by_torch.modalities.items():
            assert alone["modalities"][name]["score"] == pytest.approx(answer.score, abs=1e-4)
        assert alone["quantities"] == pytest.approx(by_torch.quantities, rel=1e-2)


def test_predict_refuses_other_backbones(evaluated: Run, synth_root: Path, tmp_path: Path) -> None:
    workspace = part_of(evaluated[0], tmp_path)
    path = workspace.retrain / "retrain.json"
    content = json.loads(path.read_text())
    for identity in content["backbones"].values():
        identity["weights_sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    evidence = json.loads((workspace.evaluate / "evidence.json").read_text())
    evidence |= {"retrained": file_sha256(path)[:16], "own": ""}
    write_evidence(workspace.evaluate, Evidence.model_validate(evidence))
    video = next((synth_root / "clips").glob("*.mp4"))
    with pytest.raises(RuntimeError, match="not those that the networks were trained on"):
        next(predict(workspace, [video], evaluated[1].compute))
