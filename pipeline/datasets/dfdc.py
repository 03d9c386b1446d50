"""Layout `dfdc`: the DeepFake Detection Challenge, all parts or some."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.datasets.base import Entry, LabelledFile, Layout, missing_file, official_split, read_entry, read_json

_LABELS = {"REAL": 0, "FAKE": 1}


def read(root: Path) -> Iterator[Entry]:
    """The entries of every metadata.json in `root`, its folders and theirs: {file: {label, split, original}}.

    Some fakes have a converted voice too, which is not labelled: every fake counts as fake picture with real sound.
    """
    tables = sorted(path for depth in ("", "*/", "*/*/") for path in root.glob(f"{depth}metadata.json"))
    if not tables:
        raise missing_file(root / "dfdc_train_part_0" / "metadata.json")
    for table in tables:
        for name, entry in read_json(table, dict).items():
            path = (table.parent.relative_to(root) / name).as_posix()
            yield read_entry(path, entry, partial(_file, path))


def _file(path: str, entry: dict[str, Any]) -> LabelledFile:
    if entry["label"] not in _LABELS:
        raise ValueError(f"label {entry['label']!r} is not REAL or FAKE")
    return LabelledFile(
        path=path,
        dataset="DFDC",
        subject_id=PurePosixPath(entry.get("original") or path).stem,
        video_label=_LABELS[entry["label"]],
        audio_label=0,
        official_split=official_split(entry["split"]),
    )


LAYOUT = Layout(
    read,
    "a person is the original recording: DFDC does not say who is in it, so one actor's recordings may stand in two "
    "splits unseen, and whose face was put in is not known either",
)
