"""A small copy of a file that any browser can play. No browser is handed what a stranger has encoded: the file is
decoded behind the wall as ever, and what is written is made of pixels and samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import media
from pipeline.detector.page.shown import Film

LONGEST_S = 120.0
"""Of a longer file so much is copied. With the rates below a page stays under 8 MB."""
_HEIGHT_PX, _WIDTH_PX = 360, 640
_FPS = (10.0, 25.0)
"""Slower and faster clips are shown at the nearest of these."""
_SOUND_HZ = 24000
_CODING: dict[str, Any] = {"crf": 29, "maxrate": "320k", "bufsize": "640k", "b:a": "48k"}


def small_film(file: Path, *, around_s: float) -> Film:
    """The whole file, or LONGEST_S of it around a moment; raises MediaError, or RuntimeError with ffmpeg's words."""
    with (
        TemporaryDirectory(prefix="bmnas-film-") as folder,
        media.one_file(max(media.MAX_SECONDS, around_s + LONGEST_S)),
    ):
        found, samples = _sound(file, around_s)
        start, end = _span(found.duration_s, around_s)
        fps = min(max(found.fps, _FPS[0]), _FPS[1])
        with media.open_video(
            file,
            found=found,
            full_at_s=[],
            small_height_px=max(2, min(_HEIGHT_PX, round(_WIDTH_PX * found.height_px / found.width_px))),
            spans_s=[(start, end)],
            small_every=max(1, math.ceil(found.fps / _FPS[1] - 0.01)),
        ) as video:
            made = Path(folder, "film.mp4")
            pictures = _steady(video.small(), start, end, fps)
            media.write_clip(made, pictures, samples, fps=fps, sample_rate_hz=_SOUND_HZ, **_CODING)
        return Film(made.read_bytes(), start, end, whole=end - start >= found.duration_s)


def _span(duration_s: float, around_s: float) -> media.Span:
    """What is copied of so long a file."""
    start = max(0.0, min(around_s - LONGEST_S / 2, duration_s - LONGEST_S))
    return start, min(start + LONGEST_S, duration_s)


def _sound(file: Path, around_s: float) -> tuple[media.Probe, NDArray[np.int16] | None]:
    """(the file as it describes itself, (samples,) of what is copied, None without sound)"""
    try:
        with media.open_sound(file, sample_rate_hz=_SOUND_HZ) as sound:
            start, end = (round(at * _SOUND_HZ) for at in _span(sound.probe.duration_s, around_s))
            samples = sound.samples[start:end]
            return sound.probe, np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16)
    except media.NoAudioError:
        return media.probe(file), None


def _steady(batches: Iterable[media.Frames], start_s: float, end_s: float, fps: float) -> Iterator[NDArray[np.uint8]]:
    """At each tick the picture that is shown then, (H, W, 3): so many a second, whatever the steps between them are."""
    ticks, shown = 0, None
    for frames in batches:
        for time_s, picture in zip(frames.times_s, frames.pixels, strict=True):
            while shown is not None and start_s + (ticks + 0.5) / fps < time_s:
                yield shown
                ticks += 1
            shown = picture
    while shown is not None and start_s + ticks / fps < end_s:
        yield shown
        ticks += 1
