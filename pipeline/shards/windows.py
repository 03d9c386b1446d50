"""Which pieces of a clip are its windows, and what a window of a short clip holds. Picture and sound both ask here.

window_s = 4, a 10 s clip whose sound starts at 0.4 s      |.4 [0.4 .. [3.2 .. 4.4) .. [6 .. 7.2) .. 10)|
a 3 s clip, short_clip = wrap                              [0 1 2 0)      repeat_last: [0 1 2 2)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cache_schemas.windows import ClipWindows
from pipeline.media import MediaError, Samples
from pipeline.params import WindowParams

MIN_AVAILABLE_S = 0.2
"""A clip with less than this is no talking face."""
_FRAME_S = 0.05
"""A window may lack so much, and a clip have so much more than its windows: containers round to frames and packets."""


def plan_windows(
    clip_id: str, *, duration_s: float, leading_silence_s: float, params: WindowParams, hop_s: float | None = None
) -> ClipWindows:
    """The fewest windows that cover the clip from where its sound starts (if `trim_silence`) to its end.

    They are spread evenly and may overlap. Where that is more than `max_per_clip`, so many are: seconds between them
    are then in none. A clip that is shorter than a window gets one. Raises MediaError when it is too short altogether,
    or when `short_clip` says quarantine.
    """
    start = leading_silence_s if params.trim_silence else 0.0
    length = duration_s - start
    if length < MIN_AVAILABLE_S:
        raise MediaError(f"too short: {max(length, 0):.2f} s that can be used, at least {MIN_AVAILABLE_S:g} s needed")
    if length + _FRAME_S < params.window_s and params.short_clip == "quarantine":
        raise MediaError(
            f"shorter than a window: {length:.2f} s that can be used, at least {params.window_s:g} s needed"
        )
    covering = max(1, math.ceil((length - _FRAME_S) / params.window_s))
    last = start + max(0.0, length - params.window_s)
    if hop_s is None:
        starts = np.linspace(start, last, min(covering, params.max_per_clip))
    else:
        starts = np.append(np.arange(start, last - _FRAME_S, hop_s), last)
    return ClipWindows(clip_id, tuple(starts.round(6).tolist()), round(min(length, params.window_s), 6))


def frame_times(windows: ClipWindows, *, frames: int, params: WindowParams) -> NDArray[np.float64]:
    """(windows, frames) seconds in the clip: the middle of each of `frames` equal parts of every window."""
    offsets = (np.arange(frames) + 0.5) * params.window_s / frames
    return np.asarray(windows.starts_s)[:, None] + _fold(offsets, windows, params)


def window_samples(
    samples: Samples, windows: ClipWindows, *, sample_rate_hz: int, params: WindowParams
) -> NDArray[np.float32]:
    """(windows, window_s * sample_rate_hz) float32: the sound of every window, from a clip's (samples,)."""
    offsets = _fold(np.arange(round(params.window_s * sample_rate_hz)) / sample_rate_hz, windows, params)
    times = np.asarray(windows.starts_s)[:, None] + offsets
    places = np.round(times * sample_rate_hz).astype(int).clip(0, len(samples) - 1)
    return np.stack([samples[at.min() : at.max() + 1][at - at.min()] for at in places])


def _fold(offsets_s: NDArray[np.float64], windows: ClipWindows, params: WindowParams) -> NDArray[np.float64]:
    """Seconds from a window's start, laid into what the clip has. In seconds, so that no rounding adds up."""
    if windows.available_s >= params.window_s:
        return offsets_s
    if params.short_clip == "wrap":
        return np.mod(offsets_s, windows.available_s)
    return np.minimum(offsets_s, windows.available_s)
