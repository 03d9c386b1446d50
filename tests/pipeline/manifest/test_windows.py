"""Fake seconds decide each window's labels, through the real stages."""

import json
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from cache_schemas.manifest import Clip
from cache_schemas.segments import MIN_FAKE_S
from pipeline.features.stage import FeatureCache
from pipeline.features.windows import WindowSource
from pipeline.media import ffmpeg_exe
from pipeline.params import parse_params
from pipeline.runs.cache import clip_index
from pipeline.statistics.tables import clips
from pipeline.synth.clip import render_clip
from pipeline.synth.plan import ClipSpec
from pipeline.workspace import Workspace
from tests.pipeline.conftest import run_to_features
from tests.pipeline.datasets.test_layouts import lav_df

WINDOW_S = 0.75


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The feature cache's index of a LAV-DF tree: three people, a real clip each, and fakes of the first."""
    root, work = tmp_path_factory.mktemp("lav-df"), tmp_path_factory.mktemp("work")
    name = render_clip(ClipSpec(0, 0.3, 0, 0, "RVRA", "", ""), root)
    entries = [
        lav_df(f"{split}/{number:06}.mp4", split, video=video, audio=audio, periods=periods, original=original)
        for number, split, video, audio, periods, original in (
            (1, "train", False, False, [], None),
            (2, "train", True, False, [[0.8, 1.0]], "000001.mp4"),
            (3, "train", False, True, [[1.42, 1.65]], "000001.mp4"),  # 0.095 s in the second window, 0.12 in the third
            (4, "train", True, True, [[0.0, 0.05]], "000001.mp4"),  # too little to be seen
            (5, "dev", False, False, [], None),
            (6, "test", False, False, [], None),
        )
    ]
    for number, entry in enumerate(entries):
        target = root / entry["file"]
        target.parent.mkdir(exist_ok=True)
        cut = ["-ss", "0.6", "-t", str(3 * WINDOW_S), "-i", root / name, "-metadata", f"comment={number}"]
        encoded = ["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac"]
        subprocess.run([ffmpeg_exe(), "-v", "error", "-y", *cut, *encoded, target], check=True)
    (root / name).unlink()
    (root / "metadata.min.json").write_text(json.dumps(entries))
    params = {
        "data": {"root": str(root), "layout": "lav-df"},
        "split": {"val": 0.3, "test": 0.3},
        "windows": {"window_s": WINDOW_S, "trim_silence": False},
        "faces": {"frames": 1, "size_px": 64},
        "compute": {"workers": 1},
    }
    run_to_features(Workspace(work), parse_params(params, source="test"))
    found = clip_index(Workspace(work), FeatureCache.open(Workspace(work).features))
    return found.assign(name=found["path"].str[-10:-4]).sort_values(["name", "window"])


def labels(index: pd.DataFrame, name: str) -> list[tuple[int, int, int, str]]:
    rows = index[index["name"] == name]
    return list(zip(rows["label"], rows["video_label"], rows["audio_label"], rows["category"], strict=True))


REAL, VIDEO, AUDIO = (0, 0, 0, "RVRA"), (1, 1, 0, "FVRA"), (1, 0, 1, "RVFA")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("000001", [REAL, REAL, REAL]),
        ("000002", [REAL, VIDEO, REAL]),
        ("000003", [REAL, REAL, AUDIO]),
        ("000004", [REAL, REAL, REAL]),
    ],
)
def test_a_window_is_fake_where_it_overlaps_a_fake_segment(
    index: pd.DataFrame, name: str, expected: list[tuple[int, int, int, str]]
) -> None:
    assert labels(index, name) == expected


def test_a_clip_is_what_its_data_set_says_whatever_its_windows_hold(index: pd.DataFrame) -> None:
    table = clips(index).set_index("name")
    for name, expected in (("000001", [0, "RVRA"]), ("000002", [1, "FVRA"]), ("000004", [1, "FVFA"])):
        assert table.loc[name, ["label", "category"]].tolist() == expected


def test_where_nothing_is_heard_no_sound_is_fake() -> None:
    clip = Clip("c", "c", "d", "s", "", "", 0, 1, 1, "RVFA", "m", "train", 1)
    for heard, expected in ((True, (0, 1)), (False, (0, None))):
        info = {"available_s": 4.0, "has_audio": heard}
        assert WindowSource(clip, 0, 0.0, (Path(), 0), (Path(), 0), "", info).labels == expected


def test_without_segments_a_fake_clip_is_fake_throughout() -> None:
    known = Clip("c", "c", "d", "s", "", "", 1, 1, 1, "FVFA", "m", "train", 1, video_segments=((1.0, 2.0),))
    assert known.labels_between(2.0, 4.0) == (0, 1)
    assert known.labels_between(2.0 - MIN_FAKE_S * 0.99, 4.0) == (0, 1)
    assert known.labels_between(2.0 - MIN_FAKE_S * 1.01, 4.0) == (1, 1)
    silent = Clip("c", "c", "d", "s", "", "", 1, None, 1, "FV-", "m", "train", 1)
    assert silent.labels_between(0.0, 4.0) == (1, None)
