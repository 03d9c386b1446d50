"""Metrics as values: {value, low, high, reason}, null where the data cannot define it, and the reason says why.

value: of the seeds' mean score; low, high: its 95 % interval over people. Nothing is ever NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pipeline.statistics import evidence, metrics, strength
from pipeline.statistics.metrics import Floats, Ints, UndefinedMetricError
from pipeline.statistics.people import (
    APCER,
    Draws,
    draw_people,
    drawn_cllr_min,
    drawn_metrics,
    enough_of_each,
    interval,
)

Value = dict[str, Any]
DRAWS = 10_000
_WEIGHTS = 200_000_000  # draws times scores, some seconds: where there are more than 20,000 scores, the draws are fewer
_FEWEST = 2000
_CALIBRATED = 0.05  # `cllr_min` is calibrated anew in each draw: in so many of them


@dataclass(frozen=True)
class Chosen:
    """What was chosen on val: from where on a clip is called fake, and what a score is worth as evidence."""

    threshold: float
    calibration: strength.Calibration


Metric = Callable[[Ints, Floats], float]
MetricChosen = Callable[[Ints, Floats, Chosen], float]
_RANKING: Mapping[str, Metric] = {
    "auc": metrics.auc,
    "average_precision": metrics.average_precision,
    "eer": metrics.eer,
    **{name: lambda y, s, at=limit: metrics.bpcer_at_apcer(y, s, at) for name, limit in APCER.items()},  # type: ignore[misc]
    "min_dcf": evidence.min_dcf,
    "cllr_min": evidence.cllr_min,
    "log_loss": metrics.log_loss,
    "brier": metrics.brier,
    "calibration_error": metrics.calibration_error,
}
_CHOSEN: Mapping[str, MetricChosen] = {
    "balanced_accuracy": lambda y, s, by: metrics.balanced_accuracy(y, s, threshold=by.threshold),
    "f1": lambda y, s, by: metrics.f1(y, s, threshold=by.threshold),
    "apcer": lambda y, s, by: metrics.apcer(s[y == 1], threshold=by.threshold),
    "bpcer": lambda y, s, by: metrics.bpcer(s[y == 0], threshold=by.threshold),
    "act_dcf": lambda y, s, by: evidence.act_dcf(y, by.calibration.log10_lr(s)),
    "cllr": lambda y, s, by: evidence.cllr(y, by.calibration.log10_lr(s)),
}
METRICS = (*_RANKING, *_CHOSEN)
"""The latter by a threshold or a calibration. APCER here is of all methods' fakes together, per method elsewhere."""


def choose(labels: ArrayLike, scores: ArrayLike) -> Chosen | str:
    """By the best balanced accuracy and the least Cllr on these clips, which are no test's; else why it cannot be."""
    try:
        return Chosen(metrics.best_threshold(labels, scores), evidence.calibrate(labels, scores))
    except UndefinedMetricError as error:
        return f"val: {error}"


def people_drawn(people: ArrayLike, *, seed: int) -> Draws | str:
    """DRAWS draws of the people of (clips,); why not, where there are too few."""
    try:
        return draw_people(people, draws=DRAWS, seed=seed)
    except UndefinedMetricError as error:
        return str(error)


def affordable(scores: int) -> int:
    """How many draws of so many scores."""
    return int(np.clip(_WEIGHTS // max(scores, 1), _FEWEST, DRAWS))


def points(
    y: Ints, s: Floats, chosen: Chosen | str, only: Collection[str] = METRICS
) -> tuple[dict[str, float], dict[str, str]]:
    """({metric: value}, {metric: why it has none})."""
    found: dict[str, float] = {}
    lacking: dict[str, str] = {}
    for name in only:
        try:
            if name in _RANKING:
                found[name] = _RANKING[name](y, s)
            elif isinstance(chosen, str):
                lacking[name] = chosen
            else:
                metrics.two_classes(y, s)
                found[name] = _CHOSEN[name](y, s, chosen)
        except UndefinedMetricError as error:
            lacking[name] = str(error)
    return found, lacking


def drawn_points(
    y: Ints, s: Floats, chosen: Chosen | str, draws: Draws, only: Collection[str] = METRICS
) -> dict[str, Floats]:
    """{metric: (draws,)} of those that are defined. Raises UndefinedMetricError where people are too few."""
    enough_of_each(y, draws.member)
    fast = not {"average_precision", "min_dcf"} & set(only)
    if isinstance(chosen, str):
        found = drawn_metrics(y, s, draws, fast=fast)
        found = {name: values for name, values in found.items() if name in _RANKING}
    else:
        lr = chosen.calibration.log10_lr(s)
        found = drawn_metrics(y, s, draws, threshold=chosen.threshold, log10_lr=lr, fast=fast)
    if "cllr_min" in only:
        found["cllr_min"] = drawn_cllr_min(y, s, draws.of(slice(None), most=int(_CALIBRATED * len(draws.counts))))
    return {name: values for name, values in found.items() if name in only}


def value(point: float, drawn: ArrayLike | str) -> Value:
    """drawn: (draws,) of it, or why there are none."""
    try:
        if isinstance(drawn, str):
            raise UndefinedMetricError(drawn)
        found = interval(drawn)
    except UndefinedMetricError as error:
        return {"value": point, "low": None, "high": None, "reason": f"no interval: {error}"}
    return {"value": point, "low": found.low, "high": found.high, "reason": None}


def spans(found: Mapping[str, Any]) -> str:
    """Of a table whose values are drawn as this one is: that they have intervals, or why not."""
    return found["reason"] or "with 95 % intervals over people"


def in_figures(found: Mapping[str, Any], *, ends: bool = True) -> str:
    """A value as tables print it: "0.914 (0.86-0.95)"; ends: whether with its interval."""
    if found["value"] is None:
        return "undefined"
    span = f" ({found['low']:.2f}-{found['high']:.2f})" if ends and found["low"] is not None else ""
    return f"{found['value']:.3f}{span}"


def undefined(reason: str) -> Value:
    """What has no value."""
    return {"value": None, "low": None, "high": None, "reason": reason}


def measured(
    y: Ints, s: Floats, chosen: Chosen | str, draws: Draws | str, only: Collection[str] = METRICS
) -> tuple[dict[str, Value], dict[str, Floats | str]]:
    """({metric: value}, {metric: (draws,) or why there are none}) of scores (n,); draws: of their people, likewise."""
    found, lacking = points(y, s, chosen, only)
    in_draws: dict[str, Floats] = {}
    why = draws if isinstance(draws, str) else ""
    try:
        in_draws = {} if isinstance(draws, str) else drawn_points(y, s, chosen, draws, only)
    except UndefinedMetricError as error:
        why = str(error)
    drawn: dict[str, Floats | str] = {n: in_draws.get(n, why) if n in found else lacking[n] for n in only}
    return {n: value(found[n], drawn[n]) if n in found else undefined(lacking[n]) for n in only}, drawn
