"""Layout `csv` (and `synth`, which writes one): the data set's own `manifest.csv`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cache_schemas.manifest import ManifestError
from cache_schemas.segments import parse_segments
from pipeline.datasets.base import LabelledFile, Layout, csv_rows, official_split, real_or_fake

_NONE = ("", "none")


def read(root: Path) -> Iterator[LabelledFile]:
    """The rows of `root/manifest.csv`: path, subject_id, video_label, audio_label and, where known, more.

    Labels are real | fake | none or 0 | 1 | empty. Optional: audio_path (the file with the sound, where it is not in
    the clip), method, dataset (or source), source_id, target_id (several people: separated by a semicolon), group (the
    subject's demographic group), split (train | val | test: official), video_segments and audio_segments
    (`0.5-1.25;3-3.5`: the fake seconds). The table is its owner's: a wrong row is an error.
    """
    path = root / "manifest.csv"
    for number, row in csv_rows(path, required=("path", "subject_id", "video_label", "audio_label")):
        try:
            yield _file(root, row)
        except ValueError as error:
            raise ManifestError(f"{path}, line {number}: {error}") from None


def _file(root: Path, row: dict[str, str]) -> LabelledFile:
    video, audio = _label(row, "video_label"), _label(row, "audio_label")
    if not row["path"]:
        raise ValueError("path is empty")
    if video is None:
        raise ValueError("video_label is empty; give real or fake")
    if audio is None and row.get("audio_path"):
        raise ValueError("audio_path names a file with sound, but audio_label is none; give real or fake")
    if not row["subject_id"]:
        raise ValueError("subject_id is empty; name the person, or give every clip a name of its own")
    segments = {name: parse_segments(row.get(name, "")) for name in ("video_segments", "audio_segments")}
    for name, label in (("video_segments", video), ("audio_segments", audio)):
        if segments[name] and not label:
            raise ValueError(f"{name} lists fake seconds, but {name.removesuffix('_segments')}_label is not fake")
    return LabelledFile(
        path=row["path"],
        dataset=row.get("dataset") or row.get("source") or root.resolve().name,
        subject_id=row["subject_id"],
        video_label=video,
        audio_label=audio,
        method=row.get("method", ""),
        source_id=row.get("source_id", ""),
        target_id=row.get("target_id", ""),
        official_split=official_split(row["split"]) if row.get("split") else "",
        audio_path=row.get("audio_path", ""),
        group=row.get("group", ""),
        **segments,
    )


def _label(row: dict[str, str], column: str) -> int | None:
    text = row[column]
    if text.lower() in _NONE:
        return None
    try:
        return real_or_fake(text)
    except ValueError:
        raise ValueError(f"{column} {text!r} is not real, fake, none, 0, 1 or empty") from None


LAYOUT = Layout(read, "a person is who subject_id, source_id and target_id say")
