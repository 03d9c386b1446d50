"""Files of other people's projects through the stages: what is used of them, and the reason where nothing is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cache_schemas.manifest import read_manifest, read_quarantine
from pipeline.faces.stage import build_faces
from pipeline.manifest.build import build_manifest
from pipeline.manifest.check import check_manifest
from pipeline.manifest.facts import measure_clips
from pipeline.params import Params
from pipeline.sound.stage import build_spectrograms
from pipeline.workspace import Workspace
from tests.pipeline.conftest import small_params

ANSWERS = ("quarantine", "visual_only")
PICTURES = {
    "mayiyahei.MP4": 222,
    "cfr.mpeg": 180,
    "MOV00006.3gp": 222,
    "roadtrip-vp92-10bit.webm": 72,
    "sample_missing_stsd.mp4": 30,
}
REASONS = {
    "sample.mkv": "cut short",
    "sample_fragmented_widevine.mp4": "encrypted",
    "water_180_mvhevc_5frames.mov": "too short: .*no sound",
}
SOUNDLESS = {
    "cfr.mpeg": "no sound track",
    "roadtrip-vp92-10bit.webm": "no sound track",
    "sample_missing_stsd.mp4": "the sound's codec is not known",
}
"""{file: pictures}, {file: the reason in any case}, {file: the reason where a clip may not do without sound}."""


class Run:
    """The manifest of the eight, and the stages over it."""

    def __init__(self, field: Path, work: Path) -> None:
        self.root, self.workspace = work / "data", Workspace(work / "work")
        self.root.mkdir()
        names = [*PICTURES, *REASONS]
        for name in names:
            (self.root / name).write_bytes((field / name).read_bytes())
        rows = [f"{name},{name},{('real', 'fake')[i % 2]},real" for i, name in enumerate(names)]
        (self.root / "manifest.csv").write_text("\n".join(["path,subject_id,video_label,audio_label", *rows]))
        clips = build_manifest(self.workspace, self.params("quarantine"))
        self.paths = {clip.clip_id: clip.path for clip in clips}

    def params(self, answer: str) -> Params:
        windows = {"window_s": 0.9, "max_per_clip": 2, "missing_modality": answer}
        return small_params(self.root, max_failed_fraction=1.0, windows=windows, faces={"frames": 2})

    def reasons(self, stage: str) -> dict[str, str]:
        """{file: why the stage left it out}."""
        return {row.path: row.reason for row in read_quarantine(self.workspace.quarantine(stage))}


@pytest.fixture(scope="module")
def run(field: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(field, tmp_path_factory.mktemp("field"))


def test_the_check_tells_what_is_in_them(run: Run) -> None:
    params = run.params("quarantine")
    found = check_manifest(run.workspace, params)
    assert sum(found["unusable"]["clips"].values()) == 2
    assert found["unusable"]["sound"]["the sound's codec is not known"] == 1
    facts = measure_clips(read_manifest(run.workspace.manifest), run.workspace.check / "facts.jsonl", params)
    known = {run.paths[clip_id]: fact for clip_id, fact in facts.items()}
    assert known["cfr.mpeg"].fps == pytest.approx(60)
    assert known["MOV00006.3gp"].pixel_aspect == pytest.approx(12 / 11, abs=1e-3)
    assert (known["roadtrip-vp92-10bit.webm"].bit_depth, known["roadtrip-vp92-10bit.webm"].audio_codec) == (10, None)
    for name in ("sample.mkv", "sample_fragmented_widevine.mp4"):
        assert REASONS[name] in known[name].reason


@pytest.mark.parametrize("answer", ANSWERS)
def test_spectrograms_take_what_can_be_used(run: Run, answer: str) -> None:
    entries = build_spectrograms(run.workspace, run.params(answer))
    reasons = run.reasons("spectrograms")
    expected = REASONS | (SOUNDLESS if answer == "quarantine" else {})
    assert set(reasons) == set(expected)
    for name, reason in expected.items():
        assert re.search(reason, reasons[name]), reasons[name]
    used = {run.paths[clip_id]: entry.info for clip_id, entry in entries.items()}
    assert {name: info["pictures"] for name, info in used.items()} == {
        name: number for name, number in PICTURES.items() if name not in reasons
    }
    assert [name for name, info in used.items() if info["has_audio"]] == [n for n in used if n not in SOUNDLESS]


def test_faces_cut_every_clip_in_which_there_is_one(run: Run) -> None:
    params = run.params("visual_only")
    build_spectrograms(run.workspace, params)
    found = {run.paths[clip_id] for clip_id in build_faces(run.workspace, params)}
    assert "mayiyahei.MP4" in found
    assert all("no face" in reason for reason in run.reasons("faces").values())
    assert found | set(run.reasons("faces")) == set(PICTURES)
