from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cache_schemas.media import FACES
from cache_schemas.shards import ClipResult, write_shard
from pipeline.report import errors
from pipeline.report.errors import add_pictures, worst_errors
from pipeline.workspace import Workspace
from tests.pipeline.report.results import faces_of, write_pictures
from tests.pipeline.run_fixture import make_index


def tables(scores: dict[str, list[float]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(scores, clips) of clips whose names begin with their class, one score a window, 4 s apart."""
    rows = [
        {"clip_id": clip, "start_s": 4.0 * window, "split": "test", "system": "fusion", "seed": 0, "score": score}
        for clip, of_clip in scores.items()
        for window, score in enumerate(of_clip)
    ]
    about = {"category": "FVFA", "method": "some", "subject_id": "s1"}
    clips = [
        {"clip_id": clip, "path": f"{clip}.mp4", "label": int(clip.startswith("fake")), **about} for clip in scores
    ]
    return pd.DataFrame(rows), pd.DataFrame(clips)


def test_the_furthest_on_the_wrong_side_come_first() -> None:
    scores = {"fake1": [0.3, 0.1], "fake2": [0.9], "real1": [0.95], "real2": [0.1], "fake3": [0.45]}
    found = worst_errors(*tables(scores), threshold=0.5)
    assert [row["clip_id"] for row in found] == ["real1", "fake1", "fake3"]
    assert (found[1]["score"], found[1]["start_s"]) == (pytest.approx(0.2), 4.0)  # the worse of its windows


def test_a_score_at_the_threshold_is_called_fake() -> None:
    found = worst_errors(*tables({"fake1": [0.5], "real1": [0.5]}), threshold=0.5)
    assert [row["clip_id"] for row in found] == ["real1"]


def test_other_splits_and_systems_are_no_errors() -> None:
    scores, clips = tables({"fake1": [0.1], "real1": [0.9]})
    for column, other in (("split", "val"), ("system", "audio")):
        assert worst_errors(scores.assign(**{column: other}), clips, 0.5) == []
    assert worst_errors(scores, clips, None) == []


def test_no_more_than_a_page_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "MOST", 2)
    found = worst_errors(*tables({f"fake{i}": [i / 10] for i in range(5)}), threshold=0.5)
    assert [row["clip_id"] for row in found] == ["fake0", "fake1"]


def row(clip_id: str, start_s: float = 0.0) -> dict[str, Any]:
    return {"clip_id": clip_id, "start_s": start_s}


def picture(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_faces_and_sound_are_those_of_the_window(tmp_path: Path) -> None:
    index, workspace = make_index(subjects=5), Workspace(tmp_path)
    write_pictures(workspace, index)
    clips = sorted(index.loc[index["split"] == "test", "clip_id"].unique())
    rows = [row(clips[2], 4.0), row(clips[2], 5.0), row("unknown")]
    assert add_pictures(rows, workspace) == "shown"
    strip = picture(rows[0]["strip"])
    assert (strip.size, rows[0]["strip_size"]) == ((768, 96), (768, 96))
    assert np.abs(np.asarray(strip).astype(int) - 20).max() <= 3  # the third clip's grey
    sound = np.asarray(picture(rows[0]["sound"]).convert("L")).astype(int)
    assert sound[:, -40:].mean() > sound[:, :40].mean() + 100  # louder to its end
    assert [each["strip"] + each["sound"] for each in rows[1:]] == ["", ""]


def test_of_two_parameters_the_newest_shard_is_shown(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for age, (key, colour) in enumerate((("new", 200), ("old", 50))):
        path = write_shard(workspace.faces, FACES, key, [ClipResult("a", "p", (0.0,), faces_of(1, colour))])
        os.utime(path, (1e9 - age, 1e9 - age))
    rows = [row("a")]
    add_pictures(rows, workspace)
    assert np.asarray(picture(rows[0]["strip"])).mean() == pytest.approx(200, abs=2)


def test_no_shards_and_damaged_ones_are_said(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    rows = [row("a")]
    assert "cannot be shown" in add_pictures(rows, workspace)
    path = write_shard(workspace.faces, FACES, "k", [ClipResult("a", "p", (0.0,), faces_of(1, 9))])
    path.write_bytes(path.read_bytes()[:-2000])
    assert "cannot be shown" in add_pictures(rows, workspace)
