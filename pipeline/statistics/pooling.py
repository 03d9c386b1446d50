"""From the scores of a clip's windows to one. A mean hides a fake second in a minute, a maximum hears all noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.metrics import Floats

_SHARPNESS = 10.0
_TOP = 3

Pool = Callable[[Floats], Floats]
"""(clips,) of (clips, windows): NaN where a clip has fewer windows, never all of them."""


def mean(scores: Floats) -> Floats:
    """All windows alike."""
    return np.asarray(np.nanmean(scores, axis=1))


def highest(scores: Floats) -> Floats:
    """The most suspicious window alone."""
    return np.asarray(np.nanmax(scores, axis=1))


def soft_highest(scores: Floats) -> Floats:
    """Between both: ln of the mean of exp(10 s), over 10."""
    return np.asarray(np.log(np.nanmean(np.exp(_SHARPNESS * scores), axis=1)) / _SHARPNESS)


def top(scores: Floats) -> Floats:
    """The mean of the three most suspicious windows, or of as many as there are."""
    return np.asarray(np.nanmean(-np.sort(-scores, axis=1)[:, :_TOP], axis=1))


POOLS: Mapping[str, Pool] = {"mean": mean, "max": highest, "log-sum-exp": soft_highest, "top-3": top}


def side_by_side(clips: NDArray[np.intp], scores: Floats) -> Floats:
    """(clips, most windows) of (windows,) scores and the number of each one's clip, which is never below the last's."""
    first = np.flatnonzero(np.diff(clips, prepend=-1))
    place = np.arange(len(clips)) - np.repeat(first, np.diff(np.append(first, len(clips))))
    found = np.full((len(first), place.max(initial=0) + 1), np.nan)
    found[np.cumsum(np.diff(clips, prepend=-1) > 0) - 1, place] = scores
    return found
