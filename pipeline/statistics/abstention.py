"""What "cannot tell" costs and saves: risk against coverage, and how often each reason is given. Pure functions.

Every clip weighs so that fakes and real clips count as much: a coverage of 0.8 is the mean of the shares answered of
both, a risk the mean of their error rates in what is answered (El-Yaniv and Wiener 2010: selective risk).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cache_schemas.evidence import SystemEvidence
from pipeline.statistics import evidence
from pipeline.statistics.answers import calibration_of
from pipeline.statistics.limits import QUANTITIES, clip_table, fit_systems, withheld
from pipeline.statistics.metrics import Floats, Ints, UndefinedMetricError, two_classes
from pipeline.statistics.people import Draws, draw_people, interval

COST_MISSED, COST_ALARM, COST_CANNOT_TELL, PRIOR_FAKE = 10.0, 1.0, 0.2, 0.05
"""Of a fake that passes, a real clip that is stopped, and "cannot tell" (somebody looks at the clip: a fifth of an
alarm); and how many fakes are expected. But for the third they are those of ASVspoof 5, as in `evidence`."""

_DRAWS = 1000
_MAX_POINTS = 200  # of a curve


def balanced_weights(labels: ArrayLike) -> Floats:
    """(clips,) that add up to a half in each class."""
    y = np.asarray(labels)
    return np.asarray(np.where(y == 1, 0.5 / max(1, (y == 1).sum()), 0.5 / max(1, (y == 0).sum())))


def risk_coverage(errors: ArrayLike, certainty: ArrayLike, weights: ArrayLike) -> tuple[Floats, Floats]:
    """(coverage, risk), both (clips,): of answering the most certain only, one more clip at a time.

    errors: (clips,) 1 where the decision is wrong; weights: (clips,), what each counts. Equally certain clips come in
    any order: each counts as wrong as they are on average.
    """
    e, c, w = (np.asarray(x, np.float64) for x in (errors, certainty, weights))
    order = np.argsort(-c, kind="stable")
    e, c, w = e[order], c[order], w[order]
    tie = np.cumsum(np.diff(c, prepend=c[:1]) != 0)
    total = np.bincount(tie, w)
    mean = np.divide(np.bincount(tie, w * e), total, out=np.zeros_like(total), where=total > 0)[tie]
    covered = np.cumsum(w)
    with np.errstate(invalid="ignore", divide="ignore"):
        risk = np.cumsum(w * mean) / covered
    return covered / covered[-1], np.nan_to_num(risk)


def area(coverage: ArrayLike, risk: ArrayLike) -> float:
    """Under a risk-coverage curve: the mean risk over all coverages; the risk of every decision were they random."""
    return float(np.sum(np.diff(np.asarray(coverage), prepend=0) * np.asarray(risk)))


def cost(labels: ArrayLike, called: NDArray[np.bool_], answered: NDArray[np.bool_]) -> float:
    """The expected cost of a clip at PRIOR_FAKE; called: whether it is stopped, where it is answered."""
    y = np.asarray(labels)
    each = np.where(~answered, COST_CANNOT_TELL, np.where(y == 1, COST_MISSED * ~called, COST_ALARM * called))
    return float(PRIOR_FAKE * each[y == 1].mean() + (1 - PRIOR_FAKE) * each[y == 0].mean())


def measure_evidence(clips: pd.DataFrame, scores: pd.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """The entry `evidence` of metrics.json: per network what its answers on the test split are worth, or why not.

    clips: as in clips.csv, scores: as in scores.csv; limits and calibration are those of their val split.
    """
    systems, undefined = fit_systems(clips, scores)
    found: dict[str, Any] = {
        "costs": {
            "missed": COST_MISSED,
            "alarm": COST_ALARM,
            "cannot_tell": COST_CANNOT_TELL,
            "prior_fake": PRIOR_FAKE,
        },
        "systems": {},
    }
    for network in QUANTITIES:
        if network in undefined:
            found["systems"][network] = {"reason": undefined[network]}
        elif network in systems:
            table = clip_table(clips, scores, network)
            test = table[table["split"] == "test"]
            try:
                found["systems"][network] = _measured(test, systems[network], seed)
            except UndefinedMetricError as error:
                found["systems"][network] = {"reason": f"the test split: {error}"}
    return found


def _measured(test: pd.DataFrame, system: SystemEvidence, seed: int) -> dict[str, Any]:
    """One network's part; test: its `clip_table` of the test split."""
    labels, scores = two_classes(test["label"], test["score"])
    kept_back = withheld(test, system)
    answered = ~kept_back.any(axis=1).to_numpy()
    wrong = ((scores >= system.threshold) != (labels == 1)).astype(np.float64)
    certainty = np.abs(evidence.log_odds(scores) - evidence.log_odds(system.threshold))
    called = evidence.called_fake(calibration_of(system).log10_lr(scores))
    coverage, risk = risk_coverage(wrong, certainty, balanced_weights(labels))
    points = np.unique(np.linspace(0, len(coverage) - 1, _MAX_POINTS).round().astype(int))
    everyone = np.ones_like(answered)
    numbers = {
        "coverage": lambda of: _shares(labels[of], answered[of]),
        "risk": lambda of: _shares(labels[of][answered[of]], wrong[of][answered[of]]),
        "risk_if_all_were_answered": lambda of: _shares(labels[of], wrong[of]),
        "area": lambda of: area(*risk_coverage(wrong[of], certainty[of], balanced_weights(labels[of]))),
        "cost": lambda of: cost(labels[of], called[of], answered[of]),
        "cost_if_all_were_answered": lambda of: cost(labels[of], called[of], everyone[of]),
    }
    return {
        "reason": None,
        "clips": len(test),
        "answered": int(answered.sum()),
        "withheld": {
            name: {"clips": int(row.sum()), "real": int(row[labels == 0].sum()), "fake": int(row[labels == 1].sum())}
            for name, row in ((name, kept_back[name].to_numpy()) for name in kept_back)
        },
        "not_known": {name: int(test[name].isna().sum()) for name in kept_back},
        **{name: _value(of, labels, test["subject_id"], seed) for name, of in numbers.items()},
        "curve": {"coverage": coverage[points].tolist(), "risk": risk[points].tolist()},
    }


def _shares(labels: Ints, holds: NDArray[Any]) -> float:
    """The mean over the classes of the share for which it holds."""
    two_classes(labels, np.zeros(len(labels)))
    return float((holds[labels == 1].mean() + holds[labels == 0].mean()) / 2)


def _value(
    measure: Callable[[NDArray[np.intp]], float], labels: Ints, people: pd.Series[Any], seed: int
) -> dict[str, Any]:
    """{value, low, high, reason} of what is measured of some clips, by their numbers; the interval draws people."""
    try:
        value = measure(np.arange(len(labels)))
    except UndefinedMetricError as error:
        return {"value": None, "low": None, "high": None, "reason": str(error)}
    try:
        found = interval(_drawn(measure, labels, draw_people(people, draws=_DRAWS, seed=seed)))
    except UndefinedMetricError as error:
        return {"value": value, "low": None, "high": None, "reason": str(error)}
    return {"value": value, "low": found.low, "high": found.high, "reason": None}


def _drawn(measure: Callable[[NDArray[np.intp]], float], labels: Ints, draws: Draws) -> Floats:
    """(draws,), NaN where one lacks a class."""
    found = np.full(len(draws.counts), np.nan)
    for row, counts in enumerate(draws.counts):
        drawn = np.repeat(np.arange(len(labels)), counts[draws.member])
        if 0 < labels[drawn].sum() < len(drawn):
            with suppress(UndefinedMetricError):
                found[row] = measure(drawn)
    return found
