"""A detector from Python: loaded once, asked about any number of files."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from cache_schemas.evidence import write_evidence
from cache_schemas.files import file_sha256
from cache_schemas.run import RetrainRun, RunFileError, read_run
from pipeline import media
from pipeline.detector.bundle import make_bundle
from pipeline.detector.parts import Parts, load_parts
from pipeline.detector.predict import Detector, predict
from pipeline.detector.road import DetectorError
from pipeline.runs.kept import kept_evidence
from pipeline.runs.unlike import write_familiar
from tests.pipeline.detector.conftest import Run, TwoPeople, part_of


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


@pytest.mark.parametrize("changes", [{"layers": ("visual/other.blocks.0",)}, {"layers": ()}])
def test_distances_in_layers_that_the_backbones_have_not_are_refused_at_opening(
    evaluated: Run, tmp_path: Path, changes: dict[str, Any]
) -> None:
    workspace = part_of(evaluated[0], tmp_path)
    evidence, familiar = kept_evidence(workspace)
    matrices = workspace.evaluate / "unlike.safetensors"
    write_familiar(matrices, familiar | {"visual": replace(familiar["visual"], **changes)})
    write_evidence(workspace.evaluate, evidence.model_copy(update={"unlike": file_sha256(matrices)}))
    with pytest.raises(
        DetectorError, match=r"unlike\.safetensors: visual: \d+ numbers, of .* run `bmnas evaluate` again"
    ):
        Detector.load(workspace.root)


def test_a_calibration_that_can_be_none_is_refused_at_opening(evaluated: Run, tmp_path: Path) -> None:
    """Not file by file."""
    workspace = part_of(evaluated[0], tmp_path)
    evidence, _ = kept_evidence(workspace)
    wrong = evidence.systems["audio"].model_copy(update={"kind": "logistic", "points": [(1.0, 0.0), (2.0, 0.0)]})
    write_evidence(workspace.evaluate, evidence.model_copy(update={"systems": {**evidence.systems, "audio": wrong}}))
    with pytest.raises(DetectorError, match=r"evidence\.json: audio: a logistic calibration is .* not 2 pairs"):
        Detector.load(workspace.root)


def test_networks_that_give_no_number_say_nothing(evaluated: Run, synth_root: Path, tmp_path: Path) -> None:
    """Of finite weights, too: it is what they give that counts."""
    workspace = part_of(evaluated[0], tmp_path)
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
