"""Writing clips. ffmpeg is given pixels and samples, never a file that a stranger has made."""

from __future__ import annotations

import functools
import shutil
import subprocess
import wave
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import IO, Any, cast

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from cache_schemas.files import replacing


@functools.cache
def ffmpeg_exe() -> str:
    """The ffmpeg that writes clips, here and in the tests: the binary that imageio-ffmpeg ships."""
    import imageio_ffmpeg  # noqa: PLC0415 - 30 MB of an ffmpeg, which whoever writes no clip may lack

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:  # none for this platform: it has found none on the system either, or says how to get one
        found = shutil.which("ffmpeg")
        if found is None:
            raise
        return found


def write_clip(
    path: Path,
    pixels: Iterable[NDArray[np.uint8]],
    samples: NDArray[np.int16] | None,
    *,
    fps: float,
    sample_rate_hz: int,
    **options: Any,
) -> None:
    """Writes an mp4 of H.264 and AAC to `path`, in one piece or not at all; raises RuntimeError with ffmpeg's words.

    pixels: one (H, W, 3) RGB or more, all of the first one's size, which is cut to an even one; samples: (N,), None
    without sound; options: ffmpeg's own of an output. One thread and `bitexact` make the bytes a function of the
    pixels and samples.
    """
    pictures = iter(pixels)
    first = next(pictures)
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".wav") as sound:
        streams = [raw_pictures(width, height, fps=fps)["v:0"]]
        coding: dict[str, Any] = {"c:v": "libx264", "preset": "veryfast", "flags:v": "+bitexact"}
        if samples is not None:
            with wave.open(sound, "wb") as file:
                file.setparams((1, 2, sample_rate_hz, len(samples), "NONE", ""))
                file.writeframes(samples.astype("<i2").tobytes())
            sound.flush()
            streams.append(ffmpeg.input(sound.name, f="wav")["a:0"])
            coding |= {"c:a": "aac", "flags:a": "+bitexact"}
        write_streams(
            path,
            streams,
            (np.ascontiguousarray(picture[:height, :width]).data for picture in chain([first], pictures)),
            f="mp4",
            pix_fmt="yuv420p",
            **coding,
            **options,
        )


def raw_pictures(width_px: int, height_px: int, *, fps: float) -> Any:
    """A stream for ffmpeg-python's graphs: what `write_streams` feeds, (height, width, 3) RGB picture by picture."""
    return ffmpeg.input("pipe:0", f="rawvideo", pix_fmt="rgb24", s=f"{width_px}x{height_px}", r=fps)


def raw_sound(*, sample_rate_hz: int) -> Any:
    """The same of mono samples, float32 of full scale 1."""
    return ffmpeg.input("pipe:0", f="f32le", ar=sample_rate_hz, ac=1)


def write_streams(
    path: Path, streams: Sequence[Any], feed: Iterable[bytes | memoryview], *, lasting: bool = True, **options: Any
) -> None:
    """Writes ffmpeg-python's streams to `path`, in one piece or not at all; raises RuntimeError with ffmpeg's words.

    feed: the bytes of the graph's raw input, piece by piece; lasting: as `replacing` has it; options: ffmpeg's own
    of an output. One thread: the bytes are a function of the input and the graph.
    """
    with replacing(path, lasting=lasting) as target, TemporaryFile() as words:
        file = ffmpeg.output(*streams, str(target), map_metadata=-1, threads=1, fflags="+bitexact", **options)
        quiet = file.global_args("-hide_banner", "-loglevel", "error", "-filter_threads", "1")
        argv = ffmpeg.compile(quiet, ffmpeg_exe(), overwrite_output=True)
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=words) as process:  # noqa: S603
            try:
                _feed(cast(IO[bytes], process.stdin), feed)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            words.seek(0)
            message = words.read().decode(errors="replace").strip()
            raise RuntimeError(f"ffmpeg could not encode {path.name} (exit {process.returncode}): {message}")


def _feed(pipe: IO[bytes], feed: Iterable[bytes | memoryview]) -> None:
    with suppress(BrokenPipeError), pipe:  # it has enough, or has given up: its exit code says which
        for piece in feed:
            pipe.write(piece)
