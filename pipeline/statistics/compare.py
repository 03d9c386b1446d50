"""Is one system better than another, on the same clips?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, rankdata

from pipeline.statistics.metrics import Floats, UndefinedMetricError, two_classes
from pipeline.statistics.people import interval


@dataclass(frozen=True)
class Difference:
    """Of two AUCs (first - second), its standard error, and how often chance alone makes it so large."""

    value: float
    standard_error: float
    p: float


def auc_covariance(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """((systems,) AUCs, (systems, systems) covariance) of DeLong et al. 1988, by the midranks of Sun and Xu 2014.

    scores: (systems, clips). Clips count as independent: where people have several, draw people instead.
    """
    rows = np.atleast_2d(np.asarray(scores, np.float64))
    y = two_classes(labels, rows[0])[0]
    for row in rows[1:]:
        two_classes(y, row)
    fake, real = rows[:, y == 1], rows[:, y == 0]
    n_fake, n_real = fake.shape[1], real.shape[1]
    if min(n_fake, n_real) < 2:
        raise UndefinedMetricError(f"{n_real} real and {n_fake} fake clips: two of each are needed")
    joint = rankdata(np.concatenate([fake, real], axis=1), axis=1)
    of_fake = (joint[:, :n_fake] - rankdata(fake, axis=1)) / n_real  # of the reals, those below each fake
    of_real = 1 - (joint[:, n_fake:] - rankdata(real, axis=1)) / n_fake
    covariance = np.atleast_2d(np.cov(of_fake)) / n_fake + np.atleast_2d(np.cov(of_real)) / n_real
    return of_fake.mean(axis=1), covariance


def delong(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> Difference:
    """first, second: (clips,) of the same clips."""
    aucs, covariance = auc_covariance(labels, np.stack([np.asarray(first), np.asarray(second)]))
    value, variance = float(aucs[0] - aucs[1]), float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    error = max(variance, 0.0) ** 0.5
    if error == 0:
        return Difference(value, error, 1.0 if value == 0 else 0.0)
    return Difference(value, error, float(2 * norm.sf(abs(value) / error)))


def paired(difference: float, first: Floats | str, second: Floats | str) -> dict[str, Any]:
    """{difference, low, high, p, reason} of a metric, first less second; what chance cannot be told of is None.

    first, second: (draws,) of it in the same draws of people, or why there are none.
    """
    row: dict[str, Any] = {"difference": difference, **dict.fromkeys(("low", "high", "p", "reason"))}
    try:
        if isinstance(first, str) or isinstance(second, str):
            raise UndefinedMetricError(first if isinstance(first, str) else str(second))
        less = first - second
        span = interval(less)
    except UndefinedMetricError as error:
        return row | {"reason": f"no interval: {error}"}
    return row | {"low": span.low, "high": span.high, "p": drawn_p(less)}


def drawn_p(differences: ArrayLike) -> float:
    """Two-sided p of a paired bootstrap: (draws,) differences of a metric, each of one draw of the people.

    Never below 2 / (draws + 1): so few draws say no more.
    """
    drawn = np.asarray(differences, np.float64)
    drawn = drawn[np.isfinite(drawn)]
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum()) + 1
    return float(min(1.0, 2 * tail / (len(drawn) + 1)))


def with_holm(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of several comparisons, of `paired`, each with its adjusted p, `p_holm`; None where it has no p."""
    tested = [row["p"] for row in rows if row["p"] is not None]
    adjusted = iter(holm(tested)) if tested else iter(())
    return [{**row, "p_holm": None if row["p"] is None else float(next(adjusted))} for row in rows]


def holm(p_values: ArrayLike) -> Floats:
    """The p values of several comparisons, adjusted so that any false alarm among them is as rare as each says."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    found = np.empty_like(p)
    found[order] = stepped
    return found
