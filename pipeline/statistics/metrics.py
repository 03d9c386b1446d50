"""Detection metrics over (label, score) pairs: label 1 is a fake, a score is P(fake), higher means fake.

A metric that the data cannot define (one class only, say) raises UndefinedMetricError, whose text is the reason;
a score that is not finite is a defect of the network and raises ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score, roc_curve

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BOOTSTRAP_BLOCK = 4_000_000  # weights held at once: 32 MB of float64
_MIN_DEFINED = 0.9  # an interval from fewer of its resamples would describe the lucky ones


class UndefinedMetricError(ValueError):
    """The metric has no value on these data; the message is the reason, fit for a report."""


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval; `resamples` counts those in which both classes were drawn."""

    low: float
    high: float
    resamples: int


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """The area under the ROC curve: the chance that a fake scores above a real one, ties counting half."""
    y, s = _two_classes(labels, scores)
    return float(roc_auc_score(y, s))


def separability(labels: ArrayLike, scores: ArrayLike) -> float:
    """max(AUC, 1 - AUC): how well a quantity tells the classes apart, whichever way round it points."""
    value = auc(labels, scores)
    return max(value, 1 - value)


def chance_separability(n_real: int, n_fake: int) -> float:
    """The separability that 95 % of uninformative quantities stay below, for independent clips.

    The Mann-Whitney statistic of two equal distributions has variance (n_real + n_fake + 1) / (12 n_real n_fake).
    """
    if not (n_real and n_fake):
        raise UndefinedMetricError(_one_class(n_real, n_fake))
    deviation = np.sqrt((n_real + n_fake + 1) / (12 * n_real * n_fake))
    return float(min(1.0, 0.5 + 1.959964 * deviation))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """The area under the precision-recall curve as a step sum; a coin reaches the fraction of fakes."""
    y, s = _two_classes(labels, scores)
    return float(average_precision_score(y, s))


def balanced_accuracy(labels: ArrayLike, scores: ArrayLike, *, threshold: float = 0.5) -> float:
    """The mean of the fraction of fakes at or above `threshold` and the fraction of real ones below it."""
    y, s = _two_classes(labels, scores)
    return float(balanced_accuracy_score(y, s >= threshold))


def roc_points(labels: ArrayLike, scores: ArrayLike, *, max_points: int = 500) -> tuple[Floats, Floats]:
    """(fpr, tpr), both rising from 0 to 1; at most `max_points`, the ends among them."""
    y, s = _two_classes(labels, scores)
    fpr, tpr, _ = roc_curve(y, s)
    if len(fpr) > max_points:
        keep = np.unique(np.linspace(0, len(fpr) - 1, max_points).round().astype(int))
        fpr, tpr = fpr[keep], tpr[keep]
    return fpr, tpr


def eer(labels: ArrayLike, scores: ArrayLike) -> float:
    """The equal error rate: where the ROC curve, straight between its points, has fpr = 1 - tpr."""
    y, s = _two_classes(labels, scores)
    fpr, tpr, _ = roc_curve(y, s)
    gap = (1 - tpr) - fpr  # falls from 1 to -1 along the curve
    after = int(np.argmax(gap <= 0))
    before = after - 1
    step = gap[before] / (gap[before] - gap[after])
    return float(fpr[before] + step * (fpr[after] - fpr[before]))


def bootstrap_mean_auc(
    labels: ArrayLike,
    scores: ArrayLike,
    clusters: ArrayLike,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The percentile interval of the AUC averaged over the rows of `scores`: (networks, clips).

    Whole clusters (subjects) are drawn with replacement, the same draw for every row: clips of one person are not
    independent, and the networks are judged on the same people.
    """
    rows = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    y = _two_classes(labels, rows[0])[0]
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    n_clusters = int(member.max()) + 1
    if n_clusters < 2:
        raise UndefinedMetricError("one subject only: no other subject to draw")
    random = np.random.default_rng(seed)
    draws = random.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=resamples)
    means = np.mean([_resampled_aucs(y, _two_classes(y, row)[1], member, draws) for row in rows], axis=0)
    defined = means[np.isfinite(means)]
    if len(defined) < _MIN_DEFINED * resamples:
        raise UndefinedMetricError(
            f"only {len(defined)} of {resamples} resamples of the subjects hold both classes: too few subjects"
        )
    tail = 50 * (1 - level)
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Interval(low=float(low), high=float(high), resamples=len(defined))


def _resampled_aucs(y: Ints, scores: Floats, member: NDArray[np.intp], draws: Ints) -> Floats:
    """One AUC per row of `draws`: (resamples, clusters) counts; NaN where a class was not drawn."""
    order = np.argsort(scores, kind="stable")
    y, member = y[order], member[order]
    ties = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) > 0)  # first clip of each run of equal scores
    block = max(1, _BOOTSTRAP_BLOCK // len(y))
    parts = [_weighted_aucs(draws[i : i + block, member], y, ties) for i in range(0, len(draws), block)]
    return np.concatenate(parts)


def _weighted_aucs(weights: Ints, y: Ints, ties: NDArray[np.intp]) -> Floats:
    """The AUC under each row of `weights`: (resamples, clips); clips in order of score, `ties` opens each run."""
    fake = np.add.reduceat(weights * y, ties, axis=1)
    real = np.add.reduceat(weights * (1 - y), ties, axis=1)
    below = np.cumsum(real, axis=1) - real
    won = (fake * (below + 0.5 * real)).sum(axis=1)
    pairs = fake.sum(axis=1) * real.sum(axis=1)
    result: Floats = np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
    return result


def _two_classes(labels: ArrayLike, scores: ArrayLike) -> tuple[Ints, Floats]:
    y: NDArray[Any] = np.asarray(labels)
    s = np.asarray(scores, dtype=np.float64)
    if y.shape != s.shape or y.ndim != 1:
        raise ValueError(f"labels {y.shape} and scores {s.shape} must be two lists of one length")
    if not np.isin(y, (0, 1)).all():
        raise ValueError(f"labels {np.unique(y).tolist()}: only 0 (real) and 1 (fake) are allowed")
    if not np.isfinite(s).all():
        raise ValueError(f"{int((~np.isfinite(s)).sum())} of {len(s)} scores are not finite")
    n_fake = int(y.sum())
    if n_fake in (0, len(y)):
        raise UndefinedMetricError(_one_class(len(y) - n_fake, n_fake))
    return y.astype(np.int64), s


def _one_class(n_real: int, n_fake: int) -> str:
    if n_real + n_fake == 0:
        return "no clips"
    return "one class only: no real clips" if n_fake else "one class only: no fake clips"
