"""Layout `dfdc`: the DeepFake Detection Challenge, all parts or some."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.datasets.base import (
    Entry,
    LabelledFile,
    Layout,
    csv_rows,
    missing_file,
    official_split,
    read_entry,
    read_json,
    real_or_fake,
)


def read(root: Path) -> Iterator[Entry]:
    """The entries of every metadata.json ({file: {label, split, original}}) and labels.csv (filename, label) in
    `root`, its folders and theirs.

    Train parts come with metadata.json. The official validation and test sets come with labels.csv, which counts where
    both are, and the clips in `videos/` or beside it; the one in a folder named val... is the validation set's. Some
    fakes have a converted voice too, which is not labelled: every fake counts as fake picture with real sound.
    """
    labels, tables = _tables(root, "labels.csv"), _tables(root, "metadata.json")
    if not labels and not tables:
        raise missing_file(root / "dfdc_train_part_0" / "metadata.json")
    for table in labels:
        yield from _labelled(root, table)
    for table in tables:
        if table.parent not in {other.parent for other in labels}:
            for name, entry in read_json(table, dict).items():
                path = (table.parent.relative_to(root) / name).as_posix()
                yield read_entry(path, entry, partial(_file, path))


def _tables(root: Path, name: str) -> list[Path]:
    return sorted(path for depth in ("", "*/", "*/*/") for path in root.glob(f"{depth}{name}"))


def _labelled(root: Path, table: Path) -> Iterator[Entry]:
    folder = table.parent / "videos" if (table.parent / "videos").is_dir() else table.parent
    split = "val" if "val" in table.resolve().parent.name.lower() else "test"
    for _, row in csv_rows(table, required=("filename", "label")):
        path = (folder.relative_to(root) / row["filename"]).as_posix()
        yield read_entry(path, row | {"split": split}, partial(_file, path))


def _file(path: str, entry: dict[str, Any]) -> LabelledFile:
    return LabelledFile(
        path=path,
        dataset="DFDC",
        subject_id=PurePosixPath(entry.get("original") or path).stem,
        video_label=real_or_fake(entry["label"]),
        audio_label=0,
        official_split=official_split(entry["split"]),
    )


LAYOUT = Layout(
    read,
    "a person is the original recording (in the validation and test sets, which name none: the clip): DFDC does not "
    "say who is in it, so one actor's recordings may stand in two splits unseen, and whose face was put in is not "
    "known either",
    "every fake counts as fake picture with real sound (FVRA): DFDC does not say whose voice was converted",
)
