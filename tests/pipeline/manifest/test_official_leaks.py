"""The leaks of published splits, as `manifest --check` tells them: of a layout's own table, and of a CSV's column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.datasets import LAYOUTS, LabelledFile
from pipeline.manifest.build import _clip
from pipeline.manifest.check import check
from pipeline.manifest.splits import assign_splits
from pipeline.params import SplitParams, WindowParams
from tests.pipeline.manifest.test_check import FACTS


def lav_df(root: Path) -> None:
    """id00001 is in train and, by a fake of hers, in dev."""
    rows = [
        ("train/id00001-a.mp4", "train", False, None), ("dev/1.mp4", "dev", True, "train/id00001-a.mp4"),
        ("dev/id00002-a.mp4", "dev", False, None), ("test/id00003-a.mp4", "test", False, None),
    ]  # fmt: skip
    content = [
        {"file": file, "split": split, "modify_video": fake, "modify_audio": False, "original": original,
         "fake_periods": [[0.5, 0.9]] if fake else []}
        for file, split, fake, original in rows
    ]  # fmt: skip
    (root / "metadata.json").write_text(json.dumps(content))


def av_deepfake1m(root: Path) -> None:
    """id00001 is in train and val."""
    for split, people in (("train", ("id00001", "id00002", "id00004")), ("val", ("id00001", "id00003"))):
        content = [
            {"file": f"{person}/{split}/00001/real.mp4", "modify_type": "real", "visual_fake_segments": [],
             "audio_fake_segments": []}
            for person in people
        ]  # fmt: skip
        (root / f"{split}_metadata.json").write_text(json.dumps(content))


def csv(root: Path) -> None:
    """a is in train, and lends her face to b in test."""
    rows = (
        "0.mp4,d,real,,train",
        "1.mp4,a,real,,train",
        "2.mp4,c,real,,val",
        "3.mp4,b,real,,test",
        "4.mp4,b,fake,a,test",
    )
    (root / "manifest.csv").write_text("\n".join(["path,subject_id,video_label,source_id,split,audio_label"] + [
        f"{row},real" for row in rows
    ]))  # fmt: skip


@pytest.mark.parametrize("kind", ["subject", "official"])
@pytest.mark.parametrize(
    ("layout", "write", "found"),
    [
        ("lav-df", lav_df, ("id00001", ["train", "val"], 0)),
        ("av-deepfake1m", av_deepfake1m, ("id00001", ["train", "val"], 0)),
        ("csv", csv, ("a", ["train", "test"], 1)),
    ],
)
def test_published_splits_that_leak_are_told(
    tmp_path: Path, layout: str, write: Any, found: tuple[str, list[str], int], kind: Any
) -> None:
    """Whether they are used or only published."""
    person, splits, donors = found
    write(tmp_path)
    files = [entry for entry in LAYOUTS[layout].read(tmp_path) if isinstance(entry, LabelledFile)]
    split = SplitParams(kind=kind, val=0.3, test=0.3)
    clips, unused = assign_splits([_clip(file, str(i), 1) for i, file in enumerate(files)], split, seed=0)
    facts = {clip.clip_id: FACTS for clip in clips}
    result = check(clips, facts, [], unused=unused, split=split, windows=WindowParams(), layout=LAYOUTS["csv"])
    assert [leak["person"] for leak in result["leaks"]["official"]] == [person]
    assert [(each["splits"], each["people"], each["donors"]) for each in result["leaks_between"]["official"]] == [
        (splits, 1, donors)
    ]
    told = [text for text in result["warnings"] if "LEAK" in text]
    used = "The splits LEAK: 1 people" if kind == "official" else "The official splits LEAK: 1 people"
    assert told[0].startswith(used), "each is told once"
    assert len(told) == 1 + (kind == "official" and layout == "av-deepfake1m"), "whose val has to be the test"
    assert f"{' and '.join(splits)} share 1 ({donors} as donors only) in 2 clips." in told[-1]
