"""Pictures against those of a decoding from the start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline import media


def every_picture(path: Path) -> media.Frames:
    """All pictures, in full size: nothing is jumped over."""
    found = media.probe(path)
    with media.open_video(path, full_at_s=[0.0], small_height_px=found.height_px, found=found) as video:
        parts = list(video.small())
    return media.Frames(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("times_s", "pixels")))


def check_jumps(path: Path, *, starts_s: Sequence[float], window_s: float) -> None:
    """Pictures of these windows, full ones and small ones, alone and together, are as decoded from the start."""
    every = every_picture(path)
    height = every.pixels.shape[1]
    spans = [(start, start + window_s) for start in starts_s]
    times = np.concatenate([start + np.arange(8) * window_s / 8 for start in starts_s])
    nearest = np.abs(every.times_s[None, :] - times[:, None]).argmin(axis=1)
    for wanted in [slice(None), *(slice(i, i + 1) for i in range(3, len(times), 8))]:
        found = media.read_frames(path, times[wanted].tolist())
        assert found.times_s.tolist() == every.times_s[nearest[wanted]].tolist()
        assert np.array_equal(found.pixels, every.pixels[nearest[wanted]])
    inside = np.any([(every.times_s >= start) & (every.times_s <= end) for start, end in spans], axis=0)
    for step in (1, 3):
        kept = inside & (np.arange(len(inside)) % step == 0)
        with media.open_video(
            path, full_at_s=times.tolist(), small_height_px=height, spans_s=spans, small_every=step
        ) as video:
            small = list(video.small())
            full = video.full()
        assert np.concatenate([part.times_s for part in small]).tolist() == every.times_s[kept].tolist()
        assert np.array_equal(np.concatenate([part.pixels for part in small]), every.pixels[kept])
        assert np.array_equal(full.pixels, every.pixels[nearest])
