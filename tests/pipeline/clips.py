"""Clips made by ffmpeg for the tests of everything that opens media."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from pipeline import media

H264 = ("-c:v", "libx264", "-preset", "ultrafast")
CODECS: dict[str, tuple[str, ...]] = {
    "mp4": (*H264, "-bf", "2", "-c:a", "aac"),
    "mkv": (*H264, "-bf", "2", "-c:a", "aac"),
    "webm": ("-c:v", "libvpx", "-b:v", "2M", "-deadline", "realtime", "-c:a", "libopus"),
    "avi": ("-c:v", "mpeg4", "-q:v", "1", "-c:a", "mp3"),
    "mov": ("-c:v", "mpeg4", "-q:v", "1", "-c:a", "pcm_s16le"),
    "mpg": ("-c:v", "mpeg1video", "-q:v", "1", "-c:a", "mp2"),
    "ts": (*H264, "-c:a", "aac"),
}
"""What a container usually holds."""


def make_clip(
    path: Path,
    *options: str,
    picture: str = "testsrc=s=64x48:r=25",
    sound: str | None = "sine=f=440",
    seconds: float = 1.0,
    inputs: Sequence[str] = (),
) -> Path:
    """`path`, drawn from two lavfi sources and coded with `options`, where none are given as CODECS says."""
    command = [media.ffmpeg_exe(), "-nostdin", "-y", "-v", "error", "-f", "lavfi", "-t", str(seconds), "-i", picture]
    if sound:
        command += ["-f", "lavfi", "-t", str(seconds), "-i", sound]
    chosen = options or CODECS[path.suffix[1:]]
    subprocess.run([*command, *inputs, *chosen, f"file:{path}"], check=True)
    return path


def copy_clip(source: Path, target: Path, *options: str, before: Sequence[str] = ()) -> Path:
    """`target`: the streams of `source`, copied with other options."""
    command = [media.ffmpeg_exe(), "-nostdin", "-y", "-v", "error", *before, "-i", f"file:{source}"]
    subprocess.run([*command, *options, "-c", "copy", f"file:{target}"], check=True)
    return target
