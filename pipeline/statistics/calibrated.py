"""How much a system's scores are worth as probabilities, and as evidence once they are calibrated on val."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.statistics import evidence, metrics, strength
from pipeline.statistics.metrics import Floats, Ints, UndefinedMetricError
from pipeline.statistics.tables import Level

_MOST_POINTS = 200  # of a Tippett curve


def measure_calibration(level: Level) -> dict[str, Any]:
    """kind, limits, cllr {before, after}, reliability, tippett: of the test clips; null with a reason where undefined.

    reliability: per bin of P(fake) that holds clips, {predicted: their mean, observed: their share of fakes, n}, before
    calibration. tippett: {real, fake: [[log10 LR, share of these clips at or above], ...]}, after it.
    """
    y, s, chosen = level.test.labels, level.test.mean, level.chosen
    found: dict[str, Any] = dict.fromkeys(("kind", "limits", "cllr", "reliability", "tippett", "reason"))
    try:
        metrics.two_classes(y, s)
        if isinstance(chosen, str):
            raise UndefinedMetricError(chosen)
    except UndefinedMetricError as error:
        return found | {"reason": str(error)}
    lr = chosen.calibration.log10_lr(s)
    before = strength.log_odds(s) / np.log(10)
    return found | {
        "kind": chosen.calibration.kind,
        "limits": [float(limit) for limit in chosen.calibration.limits],
        "cllr": {"before": evidence.cllr(y, before), "after": evidence.cllr(y, lr)},
        "reliability": _reliability(y, s),
        "tippett": {name: _tippett(lr[y == label]) for name, label in (("real", 0), ("fake", 1))},
    }


def _reliability(y: Ints, s: Floats) -> dict[str, list[float]]:
    bins = metrics.calibration_bins(s)
    held = np.unique(bins)
    return {
        "predicted": [float(s[bins == b].mean()) for b in held],
        "observed": [float(y[bins == b].mean()) for b in held],
        "n": [int((bins == b).sum()) for b in held],
    }


def _tippett(lr: Floats) -> list[list[float]]:
    values, counts = np.unique(lr, return_counts=True)
    share = np.cumsum(counts[::-1])[::-1] / len(lr)
    kept = np.unique(np.linspace(0, len(values) - 1, _MOST_POINTS).round().astype(int))
    return [[float(values[i]), float(share[i])] for i in kept]
