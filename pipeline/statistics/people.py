"""Intervals by drawing people: clips of one person are not independent, so whole people are drawn with replacement.

Every metric of every draw comes from one pass over sorted scores: a draw gives each clip a weight, and sums of weights
below each threshold are all that a ranking metric needs. Metrics that are sums over clips need sums per person only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.statistics import evidence, metrics
from pipeline.statistics.metrics import Floats, Ints, UndefinedMetricError

_BLOCK = 1_000_000  # weights at once, 4 MB: what stays in a processor's cache
_MIN_DEFINED = 0.9  # an interval from fewer of its draws would describe the lucky ones
LEAST_PEOPLE = 6
"""Over fewer, chance cannot be told from anything: were each person's sign a coin, five would agree in 2 of 2^5 cases,
p = 0.0625, two-sided; six in 2 of 2^6, p = 0.031. The same holds of whatever else is drawn: tests of a protocol."""
APCER = {"bpcer_at_apcer_1": 0.01, "bpcer_at_apcer_5": 0.05, "bpcer_at_apcer_10": 0.10}


def enough(drawn: int, of: str = "people", *, least: int = LEAST_PEOPLE) -> None:
    """Nothing; raises UndefinedMetricError where too few people, or units `of` another kind, would be drawn."""
    if drawn < least:
        raise UndefinedMetricError(f"too few {of} ({drawn}; {least} needed)")


def enough_of_each(labels: ArrayLike, people: ArrayLike) -> None:
    """The same of clips, (clips,) both: in all, and behind the fakes and behind the real clips."""
    y, whose = np.asarray(labels), np.asarray(people)
    enough(len(np.unique(whose)))
    for label, kind in ((1, "fake"), (0, "real")):
        enough(len(np.unique(whose[y == label])), f"people with {kind} clips")


@dataclass(frozen=True)
class Draws:
    """Which people each draw holds, and how often."""

    counts: Ints
    """(draws, people)"""
    member: NDArray[np.intp]
    """(clips,) whose each is"""

    def of(self, rows: NDArray[Any] | slice, *, most: int | None = None) -> Draws:
        """The same draws of the clips at `rows`, or of windows of them; the first `most` of the draws.

        Raises UndefinedMetricError where these are of too few people.
        """
        member = self.member[rows]
        enough(len(np.unique(member)))
        return Draws(self.counts[:most], member)


@dataclass(frozen=True)
class Interval:
    """A percentile interval; `draws` counts those in which the metric is defined."""

    low: float
    high: float
    draws: int


def draw_people(people: ArrayLike, *, draws: int = 10_000, seed: int = 0, least: int = LEAST_PEOPLE) -> Draws:
    """people: (clips,) of any kind; least: so many are needed, fewer where something else is drawn beside them.

    Raises UndefinedMetricError where they are too few.
    """
    _, member = np.unique(np.asarray(people), return_inverse=True)
    n_people = int(member.max(initial=-1)) + 1
    enough(n_people, least=least)
    counts = np.random.default_rng(seed).multinomial(n_people, np.full(n_people, 1 / n_people), size=draws)
    return Draws(counts, member)


def interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """Of (draws,) values of a metric, NaN where a draw does not define it; UndefinedMetricError where few do."""
    drawn = np.asarray(values, np.float64)
    defined = drawn[np.isfinite(drawn)]
    if len(defined) < _MIN_DEFINED * len(drawn):
        raise UndefinedMetricError(
            f"only {len(defined)} of {len(drawn)} draws of the people define it: too few people of one class"
        )
    tail = 50 * (1 - level)
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Interval(float(low), float(high), len(defined))


def over_seeds(values: ArrayLike, *, seed: int = 0) -> Floats:
    """(draws,) of a *method*: (draws, seeds) values, of which each draw takes as many seeds again, at random.

    The mean over the seeds as they are, `values.mean(axis=1)`, is that of a *system*: these very networks.
    """
    drawn = np.asarray(values, np.float64)
    random = np.random.default_rng(seed).integers(drawn.shape[1], size=drawn.shape)
    return np.asarray(np.take_along_axis(drawn, random, axis=1).mean(axis=1))


def drawn_metrics(
    labels: ArrayLike,
    scores: ArrayLike,
    draws: Draws,
    *,
    threshold: float = 0.5,
    log10_lr: ArrayLike | None = None,
    fast: bool = False,
) -> dict[str, Floats]:
    """{metric: (draws,)}, NaN where a draw lacks a class.

    scores: (clips,) P(fake); `threshold` is that of the metrics of a decision; log10_lr: (clips,), for `cllr` and
    `act_dcf`; fast: without those two that take as long as all others, `average_precision` and `min_dcf`.
    """
    y, s = metrics.two_classes(labels, scores)
    found = _ranked(y, s, draws, fast) | _summed(y, s, draws, threshold)
    return found if log10_lr is None else found | _evident(y, np.asarray(log10_lr, np.float64), draws)


def drawn_pairs(labels: ArrayLike, draws: Draws) -> Floats:
    """(draws,) how many pairs of a fake and a real clip there are in each."""
    fake = np.asarray(labels) == 1
    sums = _totals(draws, fake=fake, real=~fake)
    return np.asarray(sums["fake"] * sums["real"])


def drawn_cllr_min(labels: ArrayLike, scores: ArrayLike, draws: Draws) -> Floats:
    """(draws,) of `evidence.cllr_min`: each draw is calibrated anew."""
    y, s = metrics.two_classes(labels, scores)
    block = max(1, _BLOCK // len(y))
    weights = (draws.counts[i : i + block, draws.member] for i in range(0, len(draws.counts), block))
    return np.concatenate([evidence.cllr_mins(y, s, rows.astype(np.float64)) for rows in weights])


def _ranked(y: Ints, s: Floats, draws: Draws, fast: bool) -> dict[str, Floats]:
    order = np.argsort(s, kind="stable")
    fakes, reals = ((s[mine], draws.member[mine]) for mine in (order[y[order] == 1], order[y[order] == 0]))
    block = max(1, _BLOCK // len(y))
    counts = draws.counts.astype(np.float32)  # sums of counts stay below 2^24, where float32 counts exactly
    parts = [_ranked_block(fakes, reals, counts[i : i + block], fast) for i in range(0, len(counts), block)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _ranked_block(
    fakes: tuple[Floats, NDArray[np.intp]],
    reals: tuple[Floats, NDArray[np.intp]],
    counts: NDArray[np.float32],
    fast: bool,
) -> Mapping[str, Floats]:
    """fakes, reals: (their scores, ascending; whose they are); counts: (draws, people)."""
    (fake_s, fake_of), (real_s, real_of) = fakes, reals
    weights = np.take(counts, fake_of, axis=1)
    missed, below = _sums(weights), _sums(np.take(counts, real_of, axis=1))  # of the fakes, and reals, before each
    n_fake, n_real = (sums[:, -1].astype(np.float64) for sums in (missed, below))
    with np.errstate(invalid="ignore", divide="ignore"):
        passed = _before(below, real_s, fake_s)  # reals below each fake's score
        level = np.take(below, np.searchsorted(real_s, fake_s, "right"), axis=1)
        found = {"auc": _dot(weights, passed + level) / (2 * n_fake * n_real)}
        if not fast:
            found |= _along_the_fakes(weights, passed, _before(missed, fake_s, fake_s), n_fake, n_real)
        steps = np.unique(np.concatenate([fake_s, real_s]))
        places = [np.append(np.searchsorted(side, steps), len(side)) for side in (fake_s, real_s)]
        curve = _Curve(missed, below, places, n_fake, n_real)
        found["eer"] = curve.eer()
        found |= {name: curve.bpcer_at(apcer) for name, apcer in APCER.items()}
    lacking = (n_fake == 0) | (n_real == 0)
    return {name: np.where(lacking, np.nan, values) for name, values in found.items()}


def _along_the_fakes(
    weights: NDArray[np.float32],
    passed: NDArray[np.float32],
    misses: NDArray[np.float32],
    n_fake: Floats,
    n_real: Floats,
) -> dict[str, Floats]:
    """passed, misses: (draws, fakes) reals and fakes below each fake's score."""
    hits = n_fake[:, None].astype(np.float32) - misses
    alarms = n_real[:, None].astype(np.float32) - passed
    precision: NDArray[np.float32] = np.divide(
        hits, np.maximum(hits + alarms, 1), dtype=np.float32
    )  # counts: no less than 1 where there are any
    # Between two fakes' scores the threshold at the higher one has fewer alarms for the same misses.
    cost = alarms * (evidence.COST_RATIO / n_real[:, None]).astype(np.float32)
    best = np.arange(len(cost)), np.argmin(cost + misses * (1 / n_fake[:, None]).astype(np.float32), axis=1)
    least = evidence.COST_RATIO * alarms[best] / n_real + misses[best] / n_fake
    return {
        "average_precision": _dot(weights, precision) / n_fake,
        "min_dcf": np.minimum(least, 1) / min(evidence.COST_RATIO, 1),
    }


@dataclass(frozen=True)
class _Curve:
    """Error rates of every draw at every threshold: number t is the t-th lowest score, the last beyond all."""

    missed: NDArray[np.float32]
    below: NDArray[np.float32]
    places: list[NDArray[np.intp]]
    n_fake: Floats
    n_real: Floats

    def apcer(self, t: NDArray[np.intp]) -> Floats:
        return self.missed[np.arange(len(t)), self.places[0][t]] / self.n_fake

    def bpcer(self, t: NDArray[np.intp]) -> Floats:
        return (self.n_real - self.below[np.arange(len(t)), self.places[1][t]]) / self.n_real

    def eer(self) -> Floats:
        """Where the straight line between two thresholds' rates has both equal."""
        after = self._first(lambda t: self.apcer(t) >= self.bpcer(t))
        before = np.maximum(after - 1, 0)
        rise, fall = self.bpcer(before) - self.apcer(before), self.bpcer(after) - self.apcer(after)
        step = np.where(rise > fall, rise / (rise - fall), 0)
        return np.asarray(self.bpcer(before) + step * (self.bpcer(after) - self.bpcer(before)))

    def bpcer_at(self, apcer: float) -> Floats:
        """At the highest threshold that misses no more."""
        return self.bpcer(self._first(lambda t: self.apcer(t) > apcer) - 1)

    def _first(self, holds: Callable[[NDArray[np.intp]], NDArray[np.bool_]]) -> NDArray[np.intp]:
        """The first threshold of each draw at which it holds; it holds at all that follow, and at the last."""
        low = np.zeros(len(self.missed), np.intp)
        high = np.full(len(self.missed), len(self.places[0]) - 1)
        while (low < high).any():
            middle = (low + high) // 2
            yes = holds(middle)
            high, low = np.where(yes, middle, high), np.where(yes, low, np.minimum(middle + 1, high))
        return high


def _before(sums: NDArray[np.float32], scores: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float32]:
    """(draws, at): of the weights of `scores`, ascending, below each of `at`; sums: `_sums` of those weights."""
    return np.take(sums, np.searchsorted(scores, at, "left"), axis=1)


def _sums(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """(draws, n + 1): of the weights before each."""
    sums = np.zeros((len(weights), weights.shape[1] + 1), np.float32)
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def _dot(left: NDArray[np.float32], right: NDArray[np.float32]) -> Floats:
    return np.asarray(np.einsum("ij,ij->i", left, right, dtype=np.float64))


def _summed(y: Ints, s: Floats, draws: Draws, threshold: float) -> dict[str, Floats]:
    """The metrics that are ratios of sums over clips."""
    fake, called = y == 1, s >= threshold
    bins = metrics.calibration_bins(s)
    sums = _totals(
        draws,
        fake=fake,
        real=~fake,
        hit=fake & called,
        alarm=~fake & called,
        surprise=metrics.surprises(y, s),
        brier=(s - y) ** 2,
        **{f"bin{b}": (bins == b) * (s - y) for b in range(metrics.CALIBRATION_BINS)},
    )
    n_fake, n_real = sums["fake"], sums["real"]
    n, gaps = n_fake + n_real, sum(np.abs(sums[f"bin{b}"]) for b in range(metrics.CALIBRATION_BINS))
    with np.errstate(invalid="ignore", divide="ignore"):
        hits, alarms = sums["hit"] / n_fake, sums["alarm"] / n_real
        found = {
            "balanced_accuracy": (hits + 1 - alarms) / 2,
            "f1": 2 * sums["hit"] / (sums["hit"] + sums["alarm"] + n_fake),
            "apcer": 1 - hits,
            "bpcer": alarms,
            "log_loss": sums["surprise"] / n,
            "brier": sums["brier"] / n,
            "calibration_error": gaps / n,
        }
    return {name: np.where((n_fake == 0) | (n_real == 0), np.nan, values) for name, values in found.items()}


def _evident(y: Ints, lr: Floats, draws: Draws) -> dict[str, Floats]:
    fake, called = y == 1, evidence.called_fake(lr)
    sums = _totals(
        draws,
        fake=fake,
        real=~fake,
        fake_bits=fake * evidence.bits(lr),
        real_bits=~fake * evidence.bits(-lr),
        passed=fake & ~called,
        stopped=~fake & called,
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        cost = evidence.COST_RATIO * sums["stopped"] / sums["real"] + sums["passed"] / sums["fake"]
        return {
            "cllr": (sums["fake_bits"] / sums["fake"] + sums["real_bits"] / sums["real"]) / 2,
            "act_dcf": cost / min(evidence.COST_RATIO, 1),
        }


def _totals(draws: Draws, **columns: NDArray[Any]) -> dict[str, Floats]:
    """{name: (draws,)}: the columns' (clips,) sums over the clips of each draw."""
    per_person = [np.bincount(draws.member, column, draws.counts.shape[1]) for column in columns.values()]
    return dict(zip(columns, (draws.counts @ np.stack(per_person, axis=1)).T, strict=True))
