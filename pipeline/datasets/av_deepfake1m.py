"""Layout `av-deepfake1m`: AV-Deepfake1M, with the seconds that are fake."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.datasets.base import Entry, LabelledFile, Layout, entries_of, fake_segments, missing_file, read_json

_TYPES = {"real": (0, 0), "visual_modified": (1, 0), "audio_modified": (0, 1), "both_modified": (1, 1)}
_SPEAKER = re.compile(r"id\d{5}")


def read(root: Path) -> Iterator[Entry]:
    """The entries of `root/train_metadata.json` and `root/val_metadata.json` (the test set's labels are not public).

    Of each: file (`id00012/VIDEO/00001/fake_video_fake_audio.mp4`, below the folder train or val where there is
    one), modify_type, visual_fake_segments, audio_fake_segments (seconds) and audio_model. The released files list
    segments of a modality that modify_type calls real in thousands of entries; modify_type is right.
    """
    tables = {split: root / f"{split}_metadata.json" for split in ("train", "val")}
    present = {split: path for split, path in tables.items() if path.exists()}
    if not present:
        raise missing_file(tables["train"])
    for split, path in present.items():
        folder = f"{split}/" if (root / split).is_dir() else ""
        yield from entries_of(read_json(path, list), partial(_file, folder, split), folder)


def _file(folder: str, split: str, entry: dict[str, Any]) -> LabelledFile:
    if entry["modify_type"] not in _TYPES:
        raise ValueError(f"modify_type {entry['modify_type']!r} is not one of {', '.join(_TYPES)}")
    video, audio = _TYPES[entry["modify_type"]]
    return LabelledFile(
        path=folder + entry["file"],
        dataset="AV-Deepfake1M",
        subject_id=_person(entry["file"]),
        video_label=video,
        audio_label=audio,
        method="+".join(["lipsync"] * video + [str(entry.get("audio_model") or "tts")] * audio),
        official_split=split,
        video_segments=fake_segments(video, entry["visual_fake_segments"]),
        audio_segments=fake_segments(audio, entry["audio_fake_segments"]),
    )


def _person(file: str) -> str:
    speaker = next((part for part in PurePosixPath(file).parts if _SPEAKER.fullmatch(part)), None)
    # Without one (the successor's other sources): the recording, which is the folder of a clip's folder.
    return speaker or PurePosixPath(file).parent.parent.as_posix()


LAYOUT = Layout(
    read, "a person is the VoxCeleb2 speaker in the path (idNNNNN), or the recording's folder where there is none"
)
