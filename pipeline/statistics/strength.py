"""What a score is worth, by a calibration that was learnt before: as a likelihood ratio, and in words.

Apart from `pipeline.statistics.evidence`, which learns it, for whoever only asks need not wait for scikit-learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

_STEPS = (0.3, 1.0, 2.0, 4.0, 6.0)
_WORDS = ("", "weak", "moderate", "moderately strong", "strong", "very strong")
_LEAST = 1e-12  # of a probability, so that its odds are finite


@dataclass(frozen=True)
class Calibration:
    """From P(fake) to a log10 LR, by what was seen of other clips."""

    kind: Literal["logistic", "isotonic"]
    points: tuple[tuple[float, float], ...]
    """logistic: (slope, offset) of the natural log odds; isotonic: (score, log10 LR), interpolated between."""
    limits: tuple[float, float] = (-np.inf, np.inf)
    """No more is ever claimed: so much evidence as the clips support that it was fitted to (`bounds`)."""

    def __post_init__(self) -> None:
        if self.kind == "logistic" and len(self.points) != 1:
            raise ValueError(f"a logistic calibration is one slope with its offset, not {len(self.points)} pairs")

    def log10_lr(self, scores: ArrayLike) -> NDArray[np.float64]:
        """(N,) of (N,) P(fake)."""
        s = np.asarray(scores, np.float64)
        if self.kind == "logistic":
            ((slope, offset),) = self.points
            found = (slope * log_odds(s) + offset) / np.log(10)
        else:
            known, values = np.asarray(self.points).T
            found = np.interp(s, known, values)
        return np.asarray(np.clip(found, *self.limits))


def in_words(log10_lr: float) -> str:
    """As forensic reports put it (ENFSI guideline for evaluative reporting, 2015)."""
    strength = _WORDS[int(np.searchsorted(_STEPS, abs(log10_lr), "right"))]
    return (
        f"{strength} support for {'a fake' if log10_lr > 0 else 'a real clip'}" if strength else "no support either way"
    )


def signed(value: float, digits: int = 2) -> str:
    """With its sign, but for what is rounded to zero: "+0.31", "-1.20", "0.00"."""
    text = f"{value:+z.{digits}f}"
    return text if float(text) else text[1:]


def log_odds(scores: ArrayLike) -> NDArray[np.float64]:
    """ln(p / (1 - p)) of P(fake), finite at both ends."""
    clipped = np.clip(scores, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))
