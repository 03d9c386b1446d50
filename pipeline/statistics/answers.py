"""What is said of a clip: worded evidence with its likelihood ratio, or "cannot tell" and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cache_schemas.evidence import SystemEvidence
from pipeline.statistics.evidence import Calibration, in_words
from pipeline.statistics.limits import why, withheld

CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Answer:
    """What one network says of a clip.

    log10_lr: how much more probable its score is of a fake than of a real clip, within `limits`, the most that the val
    clips support; probability: P(fake) by that if as many fakes as real clips are expected. Both None where it cannot
    tell; `reasons` says why. score: the mean of the raw P(fake), evidence of nothing by itself.
    """

    says: str
    score: float | None = None
    log10_lr: float | None = None
    limits: tuple[float, float] | None = None
    probability: float | None = None
    reasons: tuple[str, ...] = ()


def calibration_of(system: SystemEvidence) -> Calibration:
    """The calibration that evidence.json keeps."""
    return Calibration(system.kind, tuple(system.points), (system.low, system.high))


def cannot_tell(*reasons: str, score: float | None = None) -> Answer:
    """The answer that says so."""
    return Answer(f"{CANNOT_TELL}: {'; '.join(reasons)}", score=score, reasons=reasons)


def answers(table: pd.DataFrame, system: SystemEvidence) -> dict[str, Answer]:
    """{clip_id: what its score says}; table: as `limits.scored_clips` gives it."""
    told = calibration_of(system).log10_lr(table["score"])
    found = {}
    for (clip_id, row), (_, hit), lr in zip(table.iterrows(), withheld(table, system).iterrows(), told, strict=True):
        score = float(row["score"])
        reasons = [why(name, float(row[name]), system.limits[name] or 0.0) for name in hit.index[hit.to_numpy(bool)]]
        if reasons:
            found[str(clip_id)] = cannot_tell(*reasons, score=score)
        else:
            probability = float(1 / (1 + np.power(10.0, -lr)))
            found[str(clip_id)] = Answer(in_words(lr), score, float(lr), (system.low, system.high), probability)
    return found
