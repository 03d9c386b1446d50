"""Layout `lav-df`: LAV-DF, with the seconds that are fake."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.datasets.base import Entry, LabelledFile, Layout, entries_of, fake_segments, official_split, read_json

_SPEAKER = re.compile(r"id\d{5}")


def read(root: Path) -> Iterator[Entry]:
    """The entries of `root/metadata.min.json`, or of metadata.json where that is missing.

    Of each: file (`train/000001.mp4`), split (train | dev | test), modify_video, modify_audio, fake_periods (seconds;
    those of the modified modalities) and original (the clip that a fake was made of; null for a real one).
    """
    small = root / "metadata.min.json"
    yield from entries_of(read_json(small if small.exists() else root / "metadata.json", list), _file)


def _file(entry: dict[str, Any]) -> LabelledFile:
    labels = {name: int(_flag(entry, name)) for name in ("modify_video", "modify_audio")}
    video, audio = labels["modify_video"], labels["modify_audio"]
    if entry["fake_periods"] and not (video or audio):
        raise ValueError("it lists fake_periods, but neither modify_video nor modify_audio is true")
    return LabelledFile(
        path=entry["file"],
        dataset="LAV-DF",
        subject_id=_person(entry["file"], entry.get("original") or ""),
        video_label=video,
        audio_label=audio,
        method="-".join(["wav2lip"] * video + ["tts"] * audio),
        official_split=official_split(entry["split"]),
        video_segments=fake_segments(video, entry["fake_periods"]),
        audio_segments=fake_segments(audio, entry["fake_periods"]),
    )


def _flag(entry: dict[str, Any], name: str) -> bool:
    if not isinstance(entry[name], bool):
        raise ValueError(f"{name} is {entry[name]!r}, must be true or false")
    return bool(entry[name])


def _person(file: str, original: str) -> str:
    speaker = _SPEAKER.search(original) or _SPEAKER.search(file)
    return speaker[0] if speaker else PurePosixPath(original or file).stem


LAYOUT = Layout(
    read,
    "a person is the VoxCeleb2 speaker where a name has one; else the original recording, since LAV-DF names no "
    "speakers: two recordings of one speaker may then stand in two splits unseen",
)
