"""How much face and speech there is in windows: pure functions of what the faces and spectrograms stages make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.sound.clip import from_pcm

_HOP_S = 0.010
_BINS = 256


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
    return seconds_above(*powers(waves, starts_s, available_s=available_s, sample_rate_hz=sample_rate_hz), silence_db)


def powers(
    waves: NDArray[np.int16], starts_s: Iterable[float], *, available_s: float, sample_rate_hz: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(The number in the clip of each 10 ms of each window, its mean power, full scale 1), (windows, n) both."""
    hop = round(_HOP_S * sample_rate_hz)
    hops = max(1, min(waves.shape[1], round(available_s * sample_rate_hz)) // hop)
    samples = from_pcm(waves[:, : hops * hop]).astype(np.float64)
    size = min(hop, samples.shape[1])
    power = np.square(samples).reshape(len(waves), -1, size).mean(axis=2)
    first = np.round(np.asarray(list(starts_s)) / _HOP_S).astype(np.int64)
    return first[:, None] + np.arange(power.shape[1]), power


def seconds_above(
    numbers: NDArray[np.int64],
    power: NDArray[np.float64],
    silence_db: float,
    *,
    windows: Sequence[int] | slice = slice(None),
) -> float:
    """Of what `powers` gives, as `seconds_heard`, and of these windows only; the loudest is that of all."""
    heard = (power >= power.max() * 10 ** (-silence_db / 10)) & (power.max() > 0)
    return float(len(np.unique(numbers[windows][heard[windows]])) * _HOP_S)


def spectrum(waves: NDArray[np.int16]) -> NDArray[np.float64]:
    """(_BINS,) the mean power of a clip's windows, (windows, samples), from 0 to half the sample rate."""
    samples = from_pcm(waves[:, : waves.shape[1] // (2 * _BINS) * 2 * _BINS]).reshape(-1, 2 * _BINS)
    power = np.square(np.abs(np.fft.rfft(samples * np.hanning(2 * _BINS), axis=1)))
    return np.asarray(power[:, 1:].mean(axis=0))
