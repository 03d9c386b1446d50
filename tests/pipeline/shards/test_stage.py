"""The loop that sound and faces share: what it says of its speed."""

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cache_schemas.media import FACES
from cache_schemas.shards import ClipResult
from pipeline.compute import progress
from pipeline.params import Params
from pipeline.shards.stage import ClipJob, run_shard_stage
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
