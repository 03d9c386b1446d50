"""How much face and speech there is in windows: pure functions of what the faces and spectrograms stages make."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pipeline.sound.clip import from_pcm

_HOP_S = 0.010


def face_windows(probabilities: NDArray[np.float32]) -> float:
    """So many whole windows of face there are, shares added up; probabilities: (windows, frames), 0 where unseen."""
    return float((probabilities > 0).mean(axis=1).sum())


def seconds_heard(
    waves: NDArray[np.int16],
    starts_s: Iterable[float],
    *,
    available_s: float,
    sample_rate_hz: int,
    silence_db: float,
) -> float:
    """Seconds that are less than `silence_db` below the loudest 10 ms of all; those in two windows count once.

    waves: (windows, samples); of each the first `available_s` are the clip's, what follows repeats them.
    """
    hop = round(_HOP_S * sample_rate_hz)
    hops = max(1, min(waves.shape[1], round(available_s * sample_rate_hz)) // hop)
    samples = from_pcm(waves[:, : hops * hop]).astype(np.float64)
    power = (
        np.square(samples).reshape(len(waves), -1, hop if samples.shape[1] >= hop else samples.shape[1]).mean(axis=2)
    )
    if not power.any():
        return 0.0
    heard = power >= power.max() * 10 ** (-silence_db / 10)
    first = np.round(np.asarray(list(starts_s)) / _HOP_S).astype(int)
    return float(len(np.unique((first[:, None] + np.arange(power.shape[1]))[heard])) * _HOP_S)
