"""Strength of evidence: likelihood ratios, what they cost, and how to make them of scores.

A log10 LR says how much more probable the evidence is of a fake than of a real clip: 2 is a hundred times. Costs are
those that the speech community quotes: Cllr (Bruemmer and du Preez 2006, doi 10.1016/j.csl.2005.08.001) in bits, 0
perfect, 1 says nothing; the detection cost of ASVspoof 5 (arXiv 2408.08739): a fake is expected in 5 % of the clips,
and to let one pass is ten times as bad as to stop a real one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from pipeline.statistics.metrics import Floats, two_classes
from pipeline.statistics.strength import Calibration, log_odds

COST_RATIO = (1 * 0.95) / (10 * 0.05)
"""Of stopping a real clip and letting a fake one pass: cost of each times how often it is expected."""
_FOLDS = 10


def bits(log10_lr: ArrayLike) -> Floats:
    """log2(1 + 1 / LR): what a fake costs that has this LR; a real one costs bits(-log10_lr)."""
    return np.asarray(np.logaddexp2(0, -np.asarray(log10_lr, np.float64) * np.log2(10)))


def cllr(labels: ArrayLike, log10_lr: ArrayLike) -> float:
    """The mean cost of a fake and of a real clip, averaged."""
    y, lr = two_classes(labels, log10_lr)
    return float((bits(lr[y == 1]).mean() + bits(-lr[y == 0]).mean()) / 2)


def cllr_min(labels: ArrayLike, scores: ArrayLike) -> float:
    """What the same ranking would cost if it were calibrated as well as it can be, by pooling adjacent violators."""
    y, s = two_classes(labels, scores)
    return float(cllr_mins(y, s, np.ones((1, len(y))))[0])


def cllr_mins(y: NDArray[np.int64], s: Floats, weights: ArrayLike) -> Floats:
    """(draws,) of it, where each clip counts as often as weights (draws, clips) say; NaN where a class is lacking."""
    order = np.argsort(s, kind="stable")
    first = np.flatnonzero(np.diff(s[order], prepend=-np.inf) > 0)
    fake = y[order]
    found = []
    for row in np.atleast_2d(weights):
        w = row[order]
        fakes, alls = (np.add.reduceat(column, first) for column in (w * fake, w))
        found.append(_least_cost(fakes[alls > 0], alls[alls > 0]))
    return np.array(found)


def _least_cost(fakes: Floats, alls: Floats) -> float:
    """fakes, alls: how many clips have each score, ascending."""
    reals, n_fake = alls - fakes, fakes.sum()
    n_real = reals.sum()
    if not (n_fake and n_real):
        return np.nan
    posterior = isotonic_regression(fakes / alls, weights=alls).x
    with np.errstate(divide="ignore"):
        lr = np.log10(posterior) - np.log10(1 - posterior) - np.log10(n_fake / n_real)
    with np.errstate(invalid="ignore"):  # nobody pays an infinite cost: 0 times infinity is 0 here
        paid = [np.nansum(n * bits(signed)) / total for n, signed, total in ((fakes, lr, n_fake), (reals, -lr, n_real))]
    return float(sum(paid) / 2)


def called_fake(log10_lr: ArrayLike) -> NDArray[np.bool_]:
    """Whether the detection cost is expected to be less if the clip is stopped."""
    return np.asarray(np.asarray(log10_lr) > np.log10(COST_RATIO))


def act_dcf(labels: ArrayLike, log10_lr: ArrayLike) -> float:
    """The detection cost of `called_fake`, in parts of that of the better of stopping all clips and none."""
    y, lr = two_classes(labels, log10_lr)
    called = called_fake(lr)
    return float(COST_RATIO * called[y == 0].mean() + (~called[y == 1]).mean()) / min(COST_RATIO, 1)


def min_dcf(labels: ArrayLike, scores: ArrayLike) -> float:
    """The same at the best threshold there is."""
    y, s = two_classes(labels, scores)
    real = np.sort(s[y == 0])
    fake = np.sort(s[y == 1])
    alarms = 1 - np.searchsorted(real, fake, "left") / len(real)
    misses = np.searchsorted(fake, fake, "left") / len(fake)
    return float(min(1.0, (COST_RATIO * alarms + misses).min())) / min(COST_RATIO, 1)


def calibrate(labels: ArrayLike, scores: ArrayLike) -> Calibration:
    """The better of a logistic and an isotonic calibration, by their Cllr on clips left out in turn."""
    y, s = two_classes(labels, scores)
    n_folds = min(_FOLDS, int((y == 1).sum()), int((y == 0).sum()))
    costs = {}
    for kind, fit in _FITS.items():
        told = np.zeros(len(y))
        for learn, left_out in StratifiedKFold(n_folds).split(s, y) if n_folds > 1 else ():
            told[left_out] = fit(y[learn], s[learn]).log10_lr(s[left_out])
        costs[kind] = cllr(y, told)
    return _FITS[min(costs, key=lambda kind: costs[kind])](y, s)


def bounds(labels: ArrayLike, log10_lr: ArrayLike) -> tuple[float, float]:
    """(lowest, highest) log10 LR that so many clips support, after Vergeer et al. 2016 (10.1016/j.scijus.2016.06.003).

    A claim of t is supported if those who trust it, and decide by it at the prior odds at which it matters, pay no more
    than those who do not listen, even if one more clip of each class had been misleading.
    """
    y, lr = two_classes(labels, log10_lr)
    return -_highest(1 - y, -lr), _highest(y, lr)


def _highest(y: NDArray[np.int64], lr: Floats) -> float:
    fake, real = np.sort(lr[y == 1]), np.sort(lr[y == 0])
    claims = fake[fake > 0]
    hits = (len(fake) - np.searchsorted(fake, claims, "left")) / (len(fake) + 1)
    alarms = (len(real) - np.searchsorted(real, claims, "left") + 1) / (len(real) + 1)
    # What the clips at or above a claim are worth themselves is a bound, too: the claim may be far beyond it.
    return float(np.minimum(claims, np.log10(hits / alarms)).max(initial=0.0))


def _logistic(y: NDArray[np.int64], s: Floats) -> Calibration:
    fitted = LogisticRegression(class_weight="balanced").fit(log_odds(s)[:, None], y)
    found = Calibration("logistic", ((max(float(fitted.coef_[0, 0]), 0.0), float(fitted.intercept_[0])),))
    return replace(found, limits=bounds(y, found.log10_lr(s)))


def _isotonic(y: NDArray[np.int64], s: Floats) -> Calibration:
    """With one misleading clip more of each class at either end, so that nothing is certain."""
    order = np.argsort(s, kind="stable")
    ends = np.array([1, 0])
    pooled = isotonic_regression(np.concatenate([ends, y[order], ends])).x[2:-2]
    lr = np.log10(pooled) - np.log10(1 - pooled) - np.log10(y.sum() / (1 - y).sum())
    known, first, counts = np.unique(s[order], return_index=True, return_counts=True)
    values = np.add.reduceat(lr, first) / counts
    found = Calibration("isotonic", tuple(zip(known.tolist(), values.tolist(), strict=True)))
    return replace(found, limits=bounds(y, found.log10_lr(s)))


_FITS: dict[str, Callable[[NDArray[np.int64], Floats], Calibration]] = {"logistic": _logistic, "isotonic": _isotonic}
