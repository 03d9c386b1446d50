"""What every layout gives, and how they read tables, JSON and folders."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache_schemas.listing import VIDEO_SUFFIXES
from cache_schemas.manifest import ManifestError
from cache_schemas.paths import plain_text
from cache_schemas.segments import Segments, merge_segments


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
    audio_path: str = ""
    """The file with the sound, as `path`; empty where the sound is in the clip."""
    group: str = ""
    """The subject's demographic group, where the data set says."""


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
    assumed: str = ""
    """What of the categories no file or table says, so that figures per category are no measurement; printed, too."""
    suffixes: frozenset[str] = VIDEO_SUFFIXES
    """Of the files that are said to be left out when no entry names them."""


_MOST_LETTERS = 300  # of a reason: what it quotes may be endless
_LABELS = {"real": 0, "0": 0, "fake": 1, "1": 1}
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}


def real_or_fake(text: str) -> int:
    """0 or 1 for real | fake (in any case), 0 | 1; raises ValueError for others."""
    if text.lower() not in _LABELS:
        raise ValueError(f"label {text!r} is not REAL or FAKE, 0 or 1")
    return _LABELS[text.lower()]


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
    """(line number, row) of a CSV file with a header, without blanks around names and values; empty rows are skipped.

    As spreadsheets save it, too: UTF-16 with its mark, and parted by the one of `,` `;` and tab that gives the header
    the required columns. Bytes that are not UTF-8 become surrogates. Raises ManifestError for anything else.
    """
    number = 0
    try:
        with path.open(encoding=_encoding(path), errors="surrogateescape", newline="") as file:
            separator = _separator(file.readline(), required)
            file.seek(0)
            rows = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
            names = [name.strip() for name in next(rows, [])]
            _check_header(path, names, required)
            for row in rows:
                number, values = rows.line_num, [value.strip() for value in row]
                if any(values[len(names) :]):
                    raise ManifestError(
                        f"{path}, line {number}: more cells than columns; put texts that hold a {separator!r} in "
                        "quotation marks"
                    )
                if any(values):
                    yield number, dict.fromkeys(names, "") | dict(zip(names, values, strict=False))
    except FileNotFoundError:
        raise missing_file(path) from None
    except (csv.Error, UnicodeError) as error:
        raise ManifestError(f"{path}: what follows line {number} is not CSV ({error}): {_SAVE_AS}") from None


_SAVE_AS = "save it as CSV UTF-8"


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in start or start.startswith(b"PK\3\4"):
        raise ManifestError(f"{path} is no text (a spreadsheet's own format, or UTF-16 without its mark): {_SAVE_AS}")
    return "utf-8-sig"


def _separator(header: str, required: tuple[str, ...]) -> str:
    for separator in ",;\t":
        names = {name.strip().strip('"') for name in header.split(separator)}
        if names.issuperset(required):
            return separator
    return ","


def _check_header(path: Path, names: list[str], required: tuple[str, ...]) -> None:
    missing = [name for name in required if name not in names]
    if missing:
        found = plain_text(", ".join(names)) or "none"
        raise ManifestError(f"{path}: column {missing[0]!r} is missing; it has {found}")
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise ManifestError(f"{path}: column {twice[0]!r} stands there twice; rename one")


def read_json(path: Path, kind: type[list[Any]] | type[dict[Any, Any]]) -> Any:
    """The file's content, a `kind`; raises ManifestError."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise missing_file(path) from None
    except ValueError as error:
        raise ManifestError(f"{path} is not JSON ({error})") from None
    except RecursionError:
        raise ManifestError(f"{path} is no data set's table: its JSON is nested too deeply") from None
    if not isinstance(content, kind):
        raise ManifestError(f"{path} holds a {type(content).__name__}, must be a {kind.__name__} of entries")
    return content


def missing_file(path: Path) -> ManifestError:
    """The error for a data set without its table."""
    return ManifestError(f"{path} does not exist: check data.root and data.layout in params.yaml")


def entries_of(rows: list[Any], read: Callable[[dict[str, Any]], LabelledFile], folder: str = "") -> Iterator[Entry]:
    """What `read` makes of each JSON object; one that lacks a key or holds a wrong value is refused with the reason.

    folder: where the files that they name lie, with its slash.
    """
    for number, row in enumerate(rows):
        name = row.get("file") if isinstance(row, dict) else None
        if isinstance(name, str):
            yield read_entry(folder + name, row, read)
        else:
            reason = "the metadata cannot be used: the entry is not an object with a text `file`"
            yield Refused(f"entry {number}", reason)


def read_entry(path: str, entry: Any, read: Callable[[Any], LabelledFile]) -> Entry:
    """What `read` makes of the metadata of one file, or why it cannot be used."""
    try:
        return read(entry)
    except KeyError as error:
        return Refused(path, f"the metadata lacks {error}")
    except (TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        return Refused(path, f"the metadata cannot be used: {str(error)[:_MOST_LETTERS]}")
