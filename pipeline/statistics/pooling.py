"""From the scores of a clip's windows to one. A mean hides a fake second in a minute, a maximum hears all noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

_SHARPNESS = 10.0
_TOP = 3

Pool = Callable[[NDArray[np.float64]], float]


def mean(scores: NDArray[np.float64]) -> float:
    """All windows alike."""
    return float(scores.mean())


def highest(scores: NDArray[np.float64]) -> float:
    """The most suspicious window alone."""
    return float(scores.max())


def soft_highest(scores: NDArray[np.float64]) -> float:
    """Between both: ln of the mean of exp(10 s), over 10."""
    return float(logsumexp(_SHARPNESS * scores, b=1 / len(scores)) / _SHARPNESS)


def top(scores: NDArray[np.float64]) -> float:
    """The mean of the three most suspicious windows, or of as many as there are."""
    return float(np.sort(scores)[-_TOP:].mean())


POOLS: Mapping[str, Pool] = {"mean": mean, "max": highest, "log-sum-exp": soft_highest, "top-3": top}
