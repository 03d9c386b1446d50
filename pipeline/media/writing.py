"""Writing clips. ffmpeg is given pixels and samples, never a file that a stranger has made."""

from __future__ import annotations

import functools
import shutil
import subprocess
import wave
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import ffmpeg
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from cache_schemas.files import replacing


@functools.cache
def ffmpeg_exe() -> str:
    """The ffmpeg that writes clips, here and in the tests: the binary that imageio-ffmpeg ships."""
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:  # none for this platform: it has found none on the system either, or says how to get one
        found = shutil.which("ffmpeg")
        if found is None:
            raise
        return found


def write_clip(
    path: Path,
    pixels: NDArray[np.uint8],
    samples: NDArray[np.int16],
    *,
    fps: float,
    sample_rate_hz: int,
    **options: Any,
) -> None:
    """Writes an mp4 of H.264 and AAC to `path`, in one piece or not at all; raises RuntimeError with ffmpeg's words.

    pixels: (T, H, W, 3) RGB, cut to even sizes; samples: (N,); options: ffmpeg's own of an output. One thread and
    `bitexact` make the bytes a function of the pixels and samples.
    """
    height, width = pixels.shape[1] // 2 * 2, pixels.shape[2] // 2 * 2
    with replacing(path) as target, NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".wav") as sound:
        with wave.open(sound, "wb") as file:
            file.setparams((1, 2, sample_rate_hz, len(samples), "NONE", ""))
            file.writeframes(samples.astype("<i2").tobytes())
        sound.flush()
        file = ffmpeg.output(
            ffmpeg.input("pipe:0", f="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=fps)["v:0"],
            ffmpeg.input(sound.name, f="wav")["a:0"],
            str(target),
            f="mp4",
            map_metadata=-1,
            threads=1,
            pix_fmt="yuv420p",
            fflags="+bitexact",
            **{"c:v": "libx264", "preset": "veryfast", "flags:v": "+bitexact", "c:a": "aac", "flags:a": "+bitexact"},
            **options,
        )
        quiet = file.global_args("-hide_banner", "-loglevel", "error")
        argv = ffmpeg.compile(quiet, ffmpeg_exe(), overwrite_output=True)
        raw = np.ascontiguousarray(pixels[:, :height, :width])
        done = subprocess.run(argv, input=raw.data, capture_output=True, check=False)  # noqa: S603
        if done.returncode:
            message = done.stderr.decode(errors="replace").strip()
            raise RuntimeError(f"ffmpeg could not encode {path.name} (exit {done.returncode}): {message}")
