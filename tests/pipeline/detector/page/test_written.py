"""Pages in a folder: one a file, named after it, of the detector that was asked."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.detector.explain import Explained, LookedAt
from pipeline.detector.page import About, about_detector, pages
from pipeline.detector.predict import predict
from pipeline.detector.prediction import Prediction, WhichFaces, unscored
from pipeline.params import ComputeParams
from pipeline.workspace import Workspace
from tests.pipeline.clips import make_clip
from tests.pipeline.detector.finished_run import finished
from tests.pipeline.detector.page.examples import ABOUT, FULL, WINDOWS
from tests.pipeline.detector.page.reader import Read


class Told:
    """A detector that knows what to say; what a real one says has tests of its own."""

    def __init__(self, workspace: Workspace, compute: ComputeParams) -> None:
        pass

    def explained(self, video: Path, *, hop_s: float | None, faces: WhichFaces, progress: object) -> Explained:
        assert (hop_s, faces) == (2.0, "main")
        if not video.exists():
            return Explained(unscored(str(video), "the file does not exist"), None)
        starts = tuple(window.start_s for window in WINDOWS)
        seen = LookedAt(starts, np.zeros((3, 8, 24, 24, 3), np.uint8), np.zeros((3, 80, 400), np.float32))
        return Explained(replace(FULL, path=str(video)), seen)


@pytest.fixture(autouse=True)
def _told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.detector.predict.Detector", Told)
    monkeypatch.chdir(tmp_path)


def written(files: list[Path], folder: Path) -> Iterator[Prediction]:
    """The answers to files that are explained and shown by pages."""
    show = pages(folder, files, ABOUT)
    return predict(Workspace(Path("work")), files, ComputeParams(workers=1), hop_s=2.0, faces="main", show=show)


def test_each_file_has_its_page() -> None:
    for folder in "ab":
        Path(folder).mkdir()
    video = make_clip(Path("a/x.mp4"))
    Path("b/x.mp4").write_text("no video at all")
    files = [video, Path("b/x.mp4"), Path("none.mp4")]
    found = list(written(files, Path("new/pages")))
    assert [each.path for each in found] == ["a/x.mp4", "b/x.mp4", "none.mp4"]
    found_pages = {path.name: Read(path.read_text(encoding="utf-8")) for path in Path("new/pages").iterdir()}
    assert sorted(found_pages) == ["none.mp4.html", "x.mp4-2.html", "x.mp4.html"]
    whole = found_pages["x.mp4.html"]
    assert "bmnas predict --bundle detector.bmnas -- a/x.mp4" in whole.text
    assert hashlib.sha256(video.read_bytes()).hexdigest() in whole.text
    kinds = [src.partition(";")[0] for src in whole.all("src")]
    assert kinds.count("data:video/mp4") == 1
    assert kinds.count("data:image/jpeg") == 3 * 5 + 1  # faces of three windows, one spectrogram
    assert "There is no preview to play: not a media file" in found_pages["x.mp4-2.html"].text
    assert "data:video/mp4" not in str(found_pages["x.mp4-2.html"].all("src"))
    assert "The file does not exist." in found_pages["none.mp4.html"].text


def test_a_full_disk_costs_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipeline.detector.page.written.write_text", full)
    answers = written([Path("a.mp4"), Path("b.mp4")], Path("pages"))
    assert [next(answers).path, next(answers).path] == ["a.mp4", "b.mp4"]
    with pytest.raises(OSError, match=r"of 2 files the answers are there, but their pages .* No space left on device"):
        next(answers)


def test_the_detector_is_described_by_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.statistics.values.DRAWS", 50)
    workspace = finished(tmp_path / "work")
    about: About = about_detector(workspace, name="work", options=("--work", "work"))
    assert about.digest == hashlib.sha256((workspace.retrain / "retrain.json").read_bytes()).hexdigest()
    assert "test clips" in about.worth
    assert any("too few to claim an accuracy" in text for text in about.warnings)
    assert set(about.claims) == {"fusion", "visual", "audio"}
    assert about.claims["fusion"].lowest < 0 < about.claims["fusion"].highest
    assert about.versions["bmnas"]
    assert about.window_s == 4.0
    assert about_detector(workspace, name="x", digest="ab" * 32).digest == "ab" * 32
