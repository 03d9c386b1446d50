"""Detection metrics over (label, score) pairs: label 1 is a fake, a score is P(fake), higher means fake.

A metric that the data cannot define (one class only, say) raises UndefinedMetricError, whose text is the reason;
a score that is not finite is a defect of the network and raises ValueError.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score, roc_curve

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class UndefinedMetricError(ValueError):
    """The metric has no value on these data; the message is the reason, fit for a report."""


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """The area under the ROC curve: the chance that a fake scores above a real one, ties counting half."""
    y, s = two_classes(labels, scores)
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
    y, s = two_classes(labels, scores)
    return float(average_precision_score(y, s))


def balanced_accuracy(labels: ArrayLike, scores: ArrayLike, *, threshold: float = 0.5) -> float:
    """The mean of the fraction of fakes at or above `threshold` and the fraction of real ones below it."""
    y, s = two_classes(labels, scores)
    return float(balanced_accuracy_score(y, s >= threshold))


def roc_points(labels: ArrayLike, scores: ArrayLike, *, max_points: int = 500) -> tuple[Floats, Floats]:
    """(fpr, tpr), both rising from 0 to 1; at most `max_points`, the ends among them."""
    y, s = two_classes(labels, scores)
    fpr, tpr, _ = roc_curve(y, s)
    if len(fpr) > max_points:
        keep = np.unique(np.linspace(0, len(fpr) - 1, max_points).round().astype(int))
        fpr, tpr = fpr[keep], tpr[keep]
    return fpr, tpr


def eer(labels: ArrayLike, scores: ArrayLike) -> float:
    """The equal error rate: where the ROC curve, straight between its points, has fpr = 1 - tpr."""
    y, s = two_classes(labels, scores)
    fpr, tpr, _ = roc_curve(y, s)
    gap = (1 - tpr) - fpr  # falls from 1 to -1 along the curve
    after = int(np.argmax(gap <= 0))
    before = after - 1
    step = gap[before] / (gap[before] - gap[after])
    return float(fpr[before] + step * (fpr[after] - fpr[before]))


def f1(labels: ArrayLike, scores: ArrayLike, *, threshold: float = 0.5) -> float:
    """The harmonic mean of precision and recall of the fakes at `threshold`."""
    y, s = two_classes(labels, scores)
    return float(f1_score(y, s >= threshold))


def best_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """The score at or above which to call a clip fake, for the best balanced accuracy; to be chosen on val."""
    fpr, tpr, thresholds = roc_curve(*two_classes(labels, scores), drop_intermediate=False)
    return float(thresholds[1:][np.argmax((tpr - fpr)[1:])])  # the first is infinite


def apcer(scores: ArrayLike, *, threshold: float = 0.5) -> float:
    """The share of attacks of one method, by their scores, that pass as real (ISO/IEC 30107-3)."""
    return float((np.asarray(scores) < threshold).mean())


def bpcer(scores: ArrayLike, *, threshold: float = 0.5) -> float:
    """The share of real clips, by their scores, that are taken for attacks (ISO/IEC 30107-3)."""
    return float((np.asarray(scores) >= threshold).mean())


def bpcer_at_apcer(labels: ArrayLike, scores: ArrayLike, limit: float) -> float:
    """BPCER at the highest threshold at which no more than `limit` of the attacks pass."""
    y, s = two_classes(labels, scores)
    fake, real = np.sort(s[y == 1]), s[y == 0]
    highest = np.nextafter(fake[-1], np.inf) if limit >= 1 else fake[int(np.floor(limit * len(fake) + 1e-9))]
    return bpcer(real, threshold=highest)


def surprises(labels: Ints, scores: Floats) -> Floats:
    """(N,) -ln of the probability that was given to what was so."""
    return np.asarray(-np.log(np.clip(np.where(labels == 1, scores, 1 - scores), np.finfo(np.float64).eps, 1)))


def log_loss(labels: ArrayLike, scores: ArrayLike) -> float:
    """The mean of `surprises`."""
    return float(surprises(*two_classes(labels, scores)).mean())


def brier(labels: ArrayLike, scores: ArrayLike) -> float:
    """The mean squared difference between P(fake) and the label."""
    y, s = two_classes(labels, scores)
    return float(np.mean((s - y) ** 2))


CALIBRATION_BINS = 15


def calibration_bins(scores: Floats) -> NDArray[np.intp]:
    """(N,) the bin, of CALIBRATION_BINS of equal width, of each P(fake)."""
    return np.minimum((scores * CALIBRATION_BINS).astype(np.intp), CALIBRATION_BINS - 1)


def calibration_error(labels: ArrayLike, scores: ArrayLike) -> float:
    """The mean over clips of |mean P(fake) - share of fakes| in their bin (Guo et al. 2017)."""
    y, s = two_classes(labels, scores)
    return float(np.abs(np.bincount(calibration_bins(s), s - y)).sum() / len(y))


def two_classes(labels: ArrayLike, scores: ArrayLike) -> tuple[Ints, Floats]:
    """Both as arrays; raises UndefinedMetricError for one class only, ValueError for what is no such pair."""
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
