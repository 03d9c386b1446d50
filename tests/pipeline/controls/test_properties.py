"""Properties: what is derived, what the check measured, and names as well as numbers are found out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cache_schemas.features import FeatureCache
from pipeline.controls.properties import COLUMNS, CONTROLS, MEASURED, NAMED, properties_of, property_scores
from pipeline.runs.cache import clip_index
from pipeline.statistics.metrics import auc
from pipeline.statistics.shortcuts import SHORTCUTS
from pipeline.statistics.tables import clips
from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import make_index, make_workspace


def dull(count: int) -> pd.DataFrame:
    """Clips, every second one fake, whose properties are chance."""
    random = np.random.default_rng(0)
    table = pd.DataFrame({name: random.uniform(1, 2, count) for name in SHORTCUTS}, [f"c{i}" for i in range(count)])
    return table.assign(label=np.arange(count) % 2, has_audio=True, path=[f"{i}.mp4" for i in range(count)])


def test_what_follows_from_the_index() -> None:
    clip = {"duration_s": 4.0, "file_bytes": 1_000_000, "width_px": 640, "height_px": 480, "path": "a/b.c.MP4"}
    table = dull(6).assign(**{name: [value] * 6 for name, value in clip.items()})
    found = properties_of(table.assign(duration_s=[4.0, 0.0] * 3))
    assert found["bit_rate_kbps"].iloc[0] == 2000
    assert np.isnan(found["bit_rate_kbps"].iloc[1])
    assert (found["pixels"].iloc[0], found["aspect"].iloc[0]) == (307_200, pytest.approx(4 / 3))
    assert set(found["file_type"]) == {".mp4"}
    assert set(found) == set(COLUMNS) - {*MEASURED, *NAMED}


LABEL = np.arange(120) % 2


@pytest.mark.parametrize(
    "planted",
    [
        {"video_codec": np.where(LABEL, "h264", "hevc")},
        {"path": [f"{i}.{'avi' if i % 2 else 'mp4'}" for i in range(120)]},
        {"bit_depth": np.where(LABEL, 8.0, 10.0)},
        {"interlaced": [bool(of) if i % 5 else None for i, of in enumerate(LABEL)]},
        {"audio_codec": ["aac" if of else f"codec{i}" for i, of in enumerate(LABEL)]},  # most are seen once
        {"file_bytes": np.where(LABEL, 2e6, 1e6) * dull(120)["duration_s"]},  # neither size nor length tells it all
    ],
    ids=lambda planted: next(iter(planted)),
)
def test_one_that_tells_the_label_is_found_out(planted: dict[str, Any]) -> None:
    found = property_scores(dull(120).assign(**planted), ["train"] * 60 + ["val"] * 20 + ["test"] * 30 + [""] * 10)
    assert found.groupby("method").size().to_dict() == dict.fromkeys(CONTROLS, 110)
    for _, of in found.groupby("method"):
        tested = of.set_index("clip_id").loc[[f"c{i}" for i in range(80, 110)], "score"]
        assert auc(LABEL[80:110], tested) > 0.85


def test_where_nothing_tells_it_nothing_is_found() -> None:
    found = property_scores(dull(120), ["train"] * 60 + ["val"] * 20 + ["test"] * 40)
    for _, of in found.groupby("method"):
        assert abs(auc(LABEL[80:], of["score"].to_numpy()[80:]) - 0.5) < 0.25


def test_what_the_check_measured_counts_once_it_has_measured_every_clip(tmp_path: Path) -> None:
    work: Workspace = make_workspace(tmp_path, make_index(subjects=5, windows=2), seeds=(0,))
    cache = FeatureCache.open(work.features)
    ids = list(dict.fromkeys(cache.index["clip_id"]))
    unknown = dict.fromkeys((*MEASURED, *NAMED))
    rows = [{"clip_id": i, "key": "k", **unknown, "video_codec": "h264", "bit_depth": 8} for i in ids]
    work.check.mkdir()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (work.check / "facts.jsonl").write_text(text[: len(text) // 2])  # a check that is at work
    assert "video_codec" not in clip_index(work, cache)
    (work.check / "facts.jsonl").write_text(text)
    found = properties_of(clips(clip_index(work, cache)))
    assert set(found) == set(COLUMNS)
    assert set(found["video_codec"]) == {"h264"}
    assert set(found["bit_depth"]) == {8.0}
    assert found["sample_rate_hz"].isna().all()
