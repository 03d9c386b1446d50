"""The windows table and the two kinds of shards that media become: spectrograms with their sound, and face crops."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cache_schemas.files import write_text
from cache_schemas.shards import ArraySpec, ShardSchema
from cache_schemas.windows import ClipWindows

SPECTROGRAMS = ShardSchema(
    "spectrograms",
    (
        ArraySpec("spectrogram", "float32", (None, None), "ln power, (bands, hops)"),
        ArraySpec("waveform", "int16", (None,), "PCM at spectrograms.sample_rate_hz, (samples,)"),
    ),
)

FACES = ShardSchema(
    "faces",
    (
        ArraySpec("crops", "uint8", (None, None, None, 3), "RGB, (frames, height, width, 3)", pictures="zstd"),
        ArraySpec("boxes", "float32", (None, 4), "px in the picture: left, top, right, bottom"),
        ArraySpec(
            "probabilities", "float32", (None,), "MTCNN's, between looks interpolated; 0 where the face was not seen"
        ),
        ArraySpec("landmarks", "float32", (None, 5, 2), "px: eyes, nose, mouth corners, as the viewer sees them"),
    ),
)


def write_windows(path: Path, clips: list[ClipWindows]) -> None:
    """Replaces `path` by the table, one row a window."""
    rows = [(c.clip_id, w, start, c.available_s) for c in clips for w, start in enumerate(c.starts_s)]
    frame = pd.DataFrame(rows, columns=["clip_id", "window", "start_s", "available_s"])
    write_text(path, frame.to_csv(index=False))


def read_windows(path: Path) -> dict[str, ClipWindows]:
    """The table by clip; raises FileNotFoundError with the stage that writes it."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: run `bmnas spectrograms` first")
    frame = pd.read_csv(path, dtype={"clip_id": str})
    return {
        str(clip_id): ClipWindows(str(clip_id), tuple(group["start_s"]), float(group["available_s"].iloc[0]))
        for clip_id, group in frame.groupby("clip_id", sort=False)
    }
