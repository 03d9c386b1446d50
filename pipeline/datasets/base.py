"""What every layout gives, and how they read tables, JSON and folders."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache_schemas.manifest import ManifestError
from cache_schemas.segments import Segments, merge_segments

VIDEO_SUFFIXES = frozenset(
    {
        ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv", ".wmv",
        ".asf", ".ogv", ".3gp", ".3g2", ".mxf", ".nut",
    }
)  # fmt: skip


@dataclass(frozen=True)
class LabelledFile:
    """What a layout knows of one file before it is opened."""

    path: str
    """Relative to the root, as the file system knows it (undecodable bytes are surrogates)."""
    dataset: str
    subject_id: str
    video_label: int
    audio_label: int | None
    """None: the data set has no sound for it."""
    method: str = ""
    """How a fake was made; empty for a real one, and where that is not known."""
    source_id: str = ""
    target_id: str = ""
    official_split: str = ""
    video_segments: Segments = ()
    audio_segments: Segments = ()


@dataclass(frozen=True)
class Refused:
    """An entry of the data set that cannot become a clip, and why."""

    path: str
    reason: str


Entry = LabelledFile | Refused


@dataclass(frozen=True)
class Layout:
    """One data set's way of storing files and labels."""

    read: Callable[[Path], Iterator[Entry]]
    """Every entry under a root; raises ManifestError when the root does not hold such a data set at all."""
    identity: str
    """What a person is here, and what that leaves open: printed by `bmnas manifest --check`."""


_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}


def official_split(text: str) -> str:
    """train, val or test for the names that data sets use; raises ValueError for others."""
    if text.lower() not in _SPLITS:
        raise ValueError(f"split {text!r} is not one of {', '.join(_SPLITS)}")
    return _SPLITS[text.lower()]


def fake_segments(label: int, pairs: object) -> Segments:
    """The segments of one modality: none where it is real, whatever the data set lists; raises ValueError when a
    fake one has none, for then nobody knows which of its seconds are real.
    """
    segments = merge_segments(pairs or []) if label else ()
    if label and not segments:
        raise ValueError("it is said to be fake, but no fake segment of any length is listed")
    return segments


def csv_rows(path: Path, *, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) of a CSV file with a header; raises ManifestError when it or a column is missing."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in required if name not in (reader.fieldnames or [])]
            if missing:
                found = ", ".join(reader.fieldnames or []) or "none"
                raise ManifestError(f"{path}: column {missing[0]!r} is missing; it has {found}")
            for row in reader:
                yield reader.line_num, {key: value or "" for key, value in row.items() if key is not None}
    except FileNotFoundError:
        raise missing_file(path) from None
    except csv.Error as error:
        raise ManifestError(f"{path} is not a CSV file ({error})") from None


def read_json(path: Path, kind: type[list[Any]] | type[dict[Any, Any]]) -> Any:
    """The file's content, a `kind`; raises ManifestError."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise missing_file(path) from None
    except ValueError as error:
        raise ManifestError(f"{path} is not JSON ({error})") from None
    if not isinstance(content, kind):
        raise ManifestError(f"{path} holds a {type(content).__name__}, must be a {kind.__name__} of entries")
    return content


def missing_file(path: Path) -> ManifestError:
    """The error for a data set without its table."""
    return ManifestError(f"{path} does not exist: check data.root and data.layout in params.yaml")


def entries_of(rows: list[Any], read: Callable[[dict[str, Any]], LabelledFile]) -> Iterator[Entry]:
    """What `read` makes of each JSON object; one that lacks a key or holds a wrong value is refused with the reason."""
    for number, row in enumerate(rows):
        name = row.get("file") if isinstance(row, dict) else None
        if isinstance(name, str):
            yield read_entry(name, row, read)
        else:
            reason = "the metadata cannot be used: the entry is not an object with a text `file`"
            yield Refused(f"entry {number}", reason)


def read_entry(path: str, entry: Any, read: Callable[[Any], LabelledFile]) -> Entry:
    """What `read` makes of the metadata of one file, or why it cannot be used."""
    try:
        return read(entry)
    except KeyError as error:
        return Refused(path, f"the metadata lacks {error}")
    except (TypeError, ValueError, AttributeError) as error:
        return Refused(path, f"the metadata cannot be used: {error}")


def video_files(root: Path, below: str = "") -> Iterator[str]:
    """Paths relative to `root` of the video files (by suffix) in its folder `below`, sorted. Links to folders are
    given, not followed: they may lead outside, or in circles.
    """
    for folder, folders, names in os.walk(root / below):
        folders.sort()
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted([*names, *links]):
            if name in links or Path(name).suffix.lower() in VIDEO_SUFFIXES:
                yield (Path(folder) / name).relative_to(root).as_posix()
