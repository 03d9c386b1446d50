"""The manifest: one row a clip, CSV. And the quarantine lists that go with each stage."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import pandas as pd

from cache_schemas.files import write_text

SPLITS = ("train", "val", "test")
Split = Literal["train", "val", "test"]


class ManifestError(ValueError):
    """The manifest cannot be used; the message names the file, the row or subject, and the way out."""


def category_of(video_label: int, audio_label: int | None) -> str:
    """RVRA, FVRA, RVFA or FVFA; RV- or FV- where there is no sound."""
    video = "FV" if video_label else "RV"
    return f"{video}-" if audio_label is None else video + ("FA" if audio_label else "RA")


@dataclass(frozen=True)
class Clip:
    """One media file. Labels: 0 real, 1 fake; `audio_label` is None where there is no sound track."""

    clip_id: str
    """The first 16 hex digits of the file's SHA-256: the same bytes are the same clip, wherever they lie."""
    path: str
    """Relative to the data root, with forward slashes."""
    dataset: str
    subject_id: str
    source_id: str
    """Whose face or voice was put in; empty where unknown or none."""
    target_id: str
    """Who was in the original recording; empty where unknown."""
    video_label: int
    audio_label: int | None
    label: int
    category: str
    method: str
    split: str
    file_bytes: int


COLUMNS = tuple(field.name for field in fields(Clip))


def write_manifest(path: Path, clips: list[Clip]) -> None:
    """Replaces `path` by the manifest; raises ManifestError when a subject is in two splits."""
    check_splits(clips)
    frame = pd.DataFrame([asdict(clip) for clip in clips], columns=list(COLUMNS))
    frame["audio_label"] = frame["audio_label"].astype("Int64")
    write_text(path, frame.to_csv(index=False))


def read_manifest(path: Path) -> list[Clip]:
    """The clips in `path`; raises ManifestError when a column is missing or a subject is in two splits."""
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise ManifestError(f"{path} does not exist: run `bmnas manifest` first") from None
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise ManifestError(f"{path}: column {missing[0]!r} is missing: run `bmnas manifest` again")
    clips = [
        Clip(
            **{
                **{name: row[name] for name in COLUMNS},
                "video_label": int(row["video_label"]),
                "audio_label": int(row["audio_label"]) if row["audio_label"] else None,
                "label": int(row["label"]),
                "file_bytes": int(row["file_bytes"]),
            }
        )
        for row in frame.to_dict("records")
    ]
    check_splits(clips)
    return clips


def check_splits(clips: list[Clip]) -> None:
    """Raises ManifestError when a person (subject, source or target) stands in two splits, or a split is unknown."""
    seen: dict[str, Clip] = {}
    for clip in clips:
        if clip.split not in SPLITS:
            raise ManifestError(f"clip {clip.path}: split {clip.split!r} is not one of {', '.join(SPLITS)}")
        for person in {clip.subject_id, clip.source_id, clip.target_id} - {""}:
            other = seen.setdefault(person, clip)
            if other.split != clip.split:
                raise ManifestError(
                    f"subject {person!r} is in two splits: {other.path} in {other.split}, {clip.path} in {clip.split}; "
                    "put all clips of a person into one split"
                )


@dataclass(frozen=True)
class Quarantined:
    """A clip that a stage could not use, and why in words that a person understands."""

    clip_id: str
    path: str
    stage: str
    reason: str


def write_quarantine(path: Path, rows: list[Quarantined]) -> None:
    """Replaces `path` by the list, sorted by clip."""
    columns = [field.name for field in fields(Quarantined)]
    ordered = sorted(rows, key=lambda row: (row.path, row.clip_id))
    write_text(path, pd.DataFrame([asdict(row) for row in ordered], columns=columns).to_csv(index=False))


def read_quarantine(path: Path) -> list[Quarantined]:
    """The list in `path`; empty when there is no such file."""
    if not path.exists():
        return []
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return [Quarantined(row["clip_id"], row["path"], row["stage"], row["reason"]) for row in frame.to_dict("records")]
