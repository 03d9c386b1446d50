"""What "cannot tell" costs and saves: risk against coverage, and how often each reason is given. Pure functions.

Every clip weighs so that fakes and real clips count as much: a coverage of 0.8 is the mean of the shares answered of
both, a risk the mean of their error rates in what is answered (El-Yaniv and Wiener 2010: selective risk).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cache_schemas.evidence import SystemEvidence
from pipeline.statistics import evidence, strength
from pipeline.statistics.answers import QUANTITIES, calibration_of
from pipeline.statistics.limits import fit_systems, scored_clips, withheld
from pipeline.statistics.metrics import Floats, Ints, UndefinedMetricError, two_classes
from pipeline.statistics.people import Draws
from pipeline.statistics.systems import cut
from pipeline.statistics.values import Value, people_drawn, undefined, value

COST_MISSED, COST_ALARM, COST_CANNOT_TELL, PRIOR_FAKE = 10.0, 1.0, 0.2, 0.05
"""Of a fake that passes, a real clip that is stopped, and "cannot tell" (somebody looks at the clip: a fifth of an
alarm); and how many fakes are expected. But for the third they are those of ASVspoof 5, as in `evidence`."""

_DRAWS = 1000  # of the people, for the area under a curve
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
    return _curve(e[order], _ties(c[order]), w[order])


def _ties(certainty: Floats) -> NDArray[np.intp]:
    """(clips,) of sorted certainties: the number of the different ones before each."""
    return np.asarray(np.cumsum(np.diff(certainty, prepend=certainty[:1]) != 0))


def _curve(errors: Floats, ties: NDArray[np.intp], weights: Floats) -> tuple[Floats, Floats]:
    """Of clips from the most certain to the least."""
    total, wrong = np.bincount(ties, weights), np.bincount(ties, weights * errors)
    mean = np.divide(wrong, total, out=np.zeros_like(total), where=total > 0)[ties]
    covered = np.cumsum(weights)
    risk = np.divide(np.cumsum(weights * mean), covered, out=np.zeros_like(covered), where=covered > 0)
    return covered / covered[-1], risk


def area(coverage: ArrayLike, risk: ArrayLike) -> float:
    """Under a risk-coverage curve: the mean risk over all coverages; the risk of every decision were they random."""
    return float(np.sum(np.diff(np.asarray(coverage), prepend=0) * np.asarray(risk)))


def costs(labels: ArrayLike, called: NDArray[np.bool_], answered: NDArray[np.bool_]) -> Floats:
    """(clips,) what each costs; called: whether it is stopped, where it is answered."""
    decided = np.where(np.asarray(labels) == 1, COST_MISSED * ~called, COST_ALARM * called)
    return np.asarray(np.where(answered, decided, COST_CANNOT_TELL))


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
            table = scored_clips(clips, scores, network)
            test = table[table["split"] == "test"]
            try:
                found["systems"][network] = _measured(test, systems[network], seed)
            except UndefinedMetricError as error:
                found["systems"][network] = {"reason": f"the test split: {error}"}
    return found


def _measured(test: pd.DataFrame, system: SystemEvidence, seed: int) -> dict[str, Any]:
    """One network's part; test: its `scored_clips` of the test split."""
    labels, scores = two_classes(test["label"], test["score"])
    kept_back = withheld(test, system)
    answered = ~kept_back.any(axis=1).to_numpy()
    wrong = ((scores >= system.threshold) != (labels == 1)).astype(np.float64)
    certainty = np.abs(strength.log_odds(scores) - strength.log_odds(system.threshold))
    called = evidence.called_fake(calibration_of(system).log10_lr(scores))
    coverage, risk = risk_coverage(wrong, certainty, balanced_weights(labels))
    points = np.unique(np.linspace(0, len(coverage) - 1, _MAX_POINTS).round().astype(int))
    everyone, people = np.ones_like(answered), _People(labels, people_drawn(test["subject_id"], seed=seed))
    paid, paid_by_all = (costs(labels, called, of) for of in (answered, everyone))
    return {
        "reason": None,
        "clips": len(test),
        "answered": int(answered.sum()),
        "withheld": {
            name: {"clips": int(row.sum()), "real": int(row[labels == 0].sum()), "fake": int(row[labels == 1].sum())}
            for name, row in ((name, kept_back[name].to_numpy()) for name in kept_back)
        },
        "not_known": {name: int(test[name].isna().sum()) for name in kept_back},
        "coverage": people.mean(answered, everyone),
        "risk": people.mean(wrong, answered),
        "risk_if_all_were_answered": people.mean(wrong, everyone),
        "area": people.area(wrong, certainty),
        "cost": people.mean(paid, everyone, prior=PRIOR_FAKE),
        "cost_if_all_were_answered": people.mean(paid_by_all, everyone, prior=PRIOR_FAKE),
        "curve": {"coverage": coverage[points].tolist(), "risk": risk[points].tolist()},
    }


@dataclass(frozen=True)
class _People:
    """Values of test clips as those of `pipeline.statistics.values`; the interval draws people."""

    labels: Ints
    draws: Draws | str

    def mean(self, x: NDArray[Any], of: NDArray[np.bool_], *, prior: float = 0.5) -> Value:
        """The mean of x, (clips,), over the clips `of`; the mean of the fakes counts `prior`."""
        fake = self.labels == 1
        sides = [(of & fake, prior), (of & ~fake, 1 - prior)]
        if not all(side.any() for side, _ in sides):
            return undefined("one class only" if of.any() else "no clips")
        point = sum(share * float(x[side].mean()) for side, share in sides)
        draws = cut(self.draws, np.flatnonzero(of), 1)  # sums are cheap
        if isinstance(draws, str):
            return value(point, draws)
        drawn, n = np.zeros(len(draws.counts)), draws.counts.shape[1]
        for side, share in sides:
            sums = (draws.counts @ np.bincount(draws.member, column[of], n) for column in (side * x, side))
            with np.errstate(invalid="ignore"):
                drawn += share * np.divide(*sums)
        return value(point, drawn)

    def area(self, wrong: Floats, certainty: Floats) -> Value:
        """Under the risk-coverage curve."""
        order = np.argsort(-certainty, kind="stable")
        errors, ties, labels = wrong[order], _ties(certainty[order]), self.labels[order]
        point = area(*_curve(errors, ties, balanced_weights(labels)))
        if isinstance(self.draws, str):
            return value(point, self.draws)
        draws = self.draws.of(order, most=_DRAWS)
        drawn = np.full(len(draws.counts), np.nan)
        for row, counts in enumerate(draws.counts):
            times = counts[draws.member]
            fakes, reals = times @ labels, times @ (1 - labels)
            if fakes and reals:
                drawn[row] = area(*_curve(errors, ties, times * np.where(labels == 1, 0.5 / fakes, 0.5 / reals)))
        return value(point, drawn)
