"""Layout `fakeavceleb`: FakeAVCeleb v1.2 as it is distributed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from cache_schemas.manifest import people_of
from pipeline.datasets.base import Entry, LabelledFile, Layout, Refused, csv_rows

_TYPES = {
    "RealVideo-RealAudio": (0, 0),
    "RealVideo-FakeAudio": (0, 1),
    "FakeVideo-RealAudio": (1, 0),
    "FakeVideo-FakeAudio": (1, 1),
}
_PERSON = re.compile(r"id\d+")


def read(root: Path) -> Iterator[Entry]:
    """The rows of meta_data.csv; `root` is the folder that holds it.

    Its last column has no name and holds the parent folder, written with the prefix FakeAVCeleb for
    FakeAVCeleb_v1.2. 22 files stand in two rows; they are one clip, whose method is faceswap-wav2lip. target1 and
    target2 name a person, or the number of one's clip, or nobody (`-`).
    """
    files: dict[str, LabelledFile] = {}
    required = ("source", "target1", "target2", "method", "type", "path", "")
    for number, row in csv_rows(root / "meta_data.csv", required=required):
        folder = PurePosixPath(*PurePosixPath(row[""]).parts[1:])
        path = (folder / row["path"]).as_posix()
        if row["type"] not in _TYPES:
            yield Refused(path, f"meta_data.csv, line {number}: type {row['type']!r} is not one of {', '.join(_TYPES)}")
            continue
        video, audio = _TYPES[row["type"]]
        file = LabelledFile(
            path=path,
            dataset="FakeAVCeleb",
            subject_id=row["source"],
            video_label=video,
            audio_label=audio,
            method=row["method"] if video or audio else "real",
            source_id=row["source"],
            target_id=";".join(people_of(*(row[name] for name in ("target1", "target2") if _is_person(row[name])))),
            group=f"{row.get('race', '')} {row.get('gender', '')}".strip(),
        )
        files[path] = _one_clip(files[path], file) if path in files else file
    yield from files.values()


def _is_person(text: str) -> bool:
    return _PERSON.fullmatch(text) is not None


def _one_clip(first: LabelledFile, second: LabelledFile) -> LabelledFile:
    return replace(
        first,
        method="faceswap-wav2lip",
        target_id=";".join(people_of(first.target_id, second.target_id)),
        video_label=max(first.video_label, second.video_label),
        audio_label=max(first.audio_label or 0, second.audio_label or 0),
    )


LAYOUT = Layout(
    read, "a person is a VoxCeleb2 speaker (idNNNNN); the source and both targets of a fake count; no official splits"
)
