"""The loop that sound and faces share: what is kept, what is tried again, what it says."""

import errno
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cache_schemas.manifest import read_quarantine
from cache_schemas.media import FACES
from cache_schemas.shards import ClipResult
from pipeline import media
from pipeline.compute import progress
from pipeline.params import Params
from pipeline.shards.stage import ClipJob, StageError, run_shard_stage
from pipeline.workspace import Workspace
from tests.pipeline.conftest import small_params
from tests.pipeline.test_faults import clip_of


def two_windows(job: ClipJob, path: Path, params: Params) -> ClipResult:
    """What faces says of a clip: two windows, and nothing of the file's length."""
    shapes = {"crops": (8, 32, 32, 3), "boxes": (8, 4), "probabilities": (8,), "landmarks": (8, 5, 2)}
    arrays = {array.name: np.ones((2, *shapes[array.name]), array.dtype) for array in FACES.arrays}
    return ClipResult(job.clip.clip_id, job.plan, (0.0, 4.0), arrays)


def test_the_last_line_says_how_fast_it_was_and_nothing_where_nothing_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"x")
    jobs = [ClipJob(clip_of(tmp_path, tmp_path / "clip.mp4", i), plan="") for i in range(3)]
    lines = []
    for _ in range(2):
        screen = StringIO()
        monkeypatch.setattr(progress, "console", Console(file=screen, width=80))
        workspace = Workspace(tmp_path / "work")
        params = small_params(tmp_path)
        run_shard_stage(workspace.faces, FACES, "key", jobs, two_windows, workspace=workspace, params=params)
        lines += [line.rstrip() for line in screen.getvalue().splitlines()[:1]]
    assert "3/3 clips" in lines[0]
    assert lines[0].endswith("x real time")
    assert " 0 " not in lines[0]
    assert len(lines) == 1


class Stage:
    """The loop over six clips, of which some fail as it is told; `took` are the clips that the last run computed."""

    def __init__(self, root: Path) -> None:
        self.root, self.workspace = root, Workspace(root / "work")
        self.faults: dict[str, Exception] = {}
        self.took: list[str] = []
        for i in range(6):
            (root / f"{i}.mp4").write_bytes(b"x")

    def run(self, key: str = "key", *, most: float = 1.0, **options: bool) -> tuple[set[str], dict[str, str]]:
        """(paths of the clips that went well, {path: reason} of the others)."""
        self.took.clear()
        jobs = [ClipJob(clip_of(self.root, path, i), plan="") for i, path in enumerate(sorted(self.root.glob("*.mp4")))]
        params = small_params(self.root, max_failed_fraction=most)
        try:
            good = run_shard_stage(
                self.workspace.faces, FACES, key, jobs, self.process, workspace=self.workspace, params=params, **options
            )
        finally:
            failed = {row.path: row.reason for row in read_quarantine(self.workspace.quarantine("faces"))}
        return {job.clip.path for job in jobs if job.clip.clip_id in good}, failed

    def process(self, job: ClipJob, path: Path, params: Params) -> ClipResult:
        self.took.append(job.clip.path)
        if fault := self.faults.get(job.clip.path):
            raise fault
        return two_windows(job, path, params)


ALL = {f"{i}.mp4" for i in range(6)}
PASSING: dict[str, Callable[[], Exception]] = {
    "a disk's": lambda: OSError(errno.EIO, "Input/output error"),
    "waited for": lambda: media.PassingError("decoding took longer than 300 s"),
    "memory": MemoryError,
    "a bug": lambda: ZeroDivisionError("division by zero"),
}


@pytest.mark.parametrize("kind", PASSING)
def test_a_fault_that_may_pass_is_tried_again_in_the_next_run(tmp_path: Path, kind: str) -> None:
    stage = Stage(tmp_path)
    stage.faults = {"1.mp4": PASSING[kind](), "4.mp4": PASSING[kind](), "5.mp4": media.MediaError("no face found")}
    good, failed = stage.run()
    assert good == {"0.mp4", "2.mp4", "3.mp4"}
    assert "tried again in the next run" in failed["1.mp4"]
    assert failed["5.mp4"] == "no face found"
    stage.faults = {}
    good, failed = stage.run()
    assert good == ALL - {"5.mp4"}
    assert stage.took == ["1.mp4", "4.mp4"]
    assert failed == {"5.mp4": "no face found"}
    stage.run()
    assert stage.took == []


def test_what_the_content_decided_is_tried_again_where_that_is_asked_for(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.faults = {f"{i}.mp4": media.MediaError("no face found") for i in (1, 3, 5)}
    stage.run()
    stage.faults = {"1.mp4": media.MediaError("no face found in any of 9 pictures"), "3.mp4": MemoryError()}
    good, failed = stage.run(retry=True)
    assert stage.took == ["1.mp4", "3.mp4", "5.mp4"]
    assert good == ALL - {"1.mp4", "3.mp4"}
    assert failed["1.mp4"] == "no face found in any of 9 pictures"
    assert stage.run()[0] >= good  # whatever an older shard says of it
    assert "5.mp4" not in stage.took


def test_a_run_that_fails_deletes_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.run("min_face_px 30")
    stage.faults = {path: media.MediaError("no face found") for path in ALL}
    with pytest.raises(StageError, match="6 of 6 clips failed"):
        stage.run("min_face_px 3000", most=0.5)
    assert stage.run("min_face_px 30") == (ALL, {})
    assert stage.took == []


def test_shards_of_other_parameters_and_clips_stay_until_they_are_pruned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(tmp_path)
    stage.run("one")
    stage.run("two")
    assert "1 shard" in capsys.readouterr().err
    (tmp_path / "3.mp4").rename(tmp_path / "3.gone")
    stage.run("one")
    (tmp_path / "3.gone").rename(tmp_path / "3.mp4")
    assert stage.run("one") == (ALL, {})
    assert stage.took == []
    (stage.workspace.faces / "broken.h5").write_bytes(b"half")
    stage.run("one", prune=True)
    assert stage.took == []
    assert len(list(stage.workspace.faces.iterdir())) == 1
    stage.run("two")
    assert len(stage.took) == 6


def test_what_a_run_has_just_computed_is_not_pruned_wherever_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The work folder is given as the command line gives it: relative, here to a folder that is a link."""
    stage = Stage(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    stage.workspace = Workspace(Path("link/work"))
    assert stage.run(prune=True) == (ALL, {})
    assert "shard" not in capsys.readouterr().err
    assert stage.run(prune=True) == (ALL, {})
    assert stage.took == []


def test_a_file_that_is_not_what_the_manifest_saw_is_no_verdict_on_it(tmp_path: Path) -> None:
    """It is being copied, or was replaced: what its bytes say now is not said of the clip."""
    path = tmp_path / "0.mp4"
    path.write_bytes(b"xx")
    jobs = [ClipJob(clip_of(tmp_path, path), plan="")]
    path.write_bytes(b"x")
    workspace, params = Workspace(tmp_path / "work"), small_params(tmp_path, max_failed_fraction=1.0)
    assert not run_shard_stage(workspace.faces, FACES, "k", jobs, two_windows, workspace=workspace, params=params)
    (row,) = read_quarantine(workspace.quarantine("faces"))
    assert "1 bytes, 2 when" in row.reason
    path.write_bytes(b"xx")
    assert run_shard_stage(workspace.faces, FACES, "k", jobs, two_windows, workspace=workspace, params=params)


def test_the_stop_names_the_commonest_reason(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.faults = {f"{i}.mp4": media.MediaError(f"no face found in any of {i} pictures") for i in range(3)}
    stage.faults["3.mp4"] = media.MediaError("no video stream")
    with pytest.raises(StageError, match=r"most often, 3 times: no face found in any of 0 pictures"):
        stage.run(most=0.5)
