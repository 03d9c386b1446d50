"""Tables of curves: what DVC and the report draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pipeline.statistics import metrics
from pipeline.statistics.metrics import UndefinedMetricError
from pipeline.statistics.tables import system_of

_MAX_POINTS = 500  # of a ROC curve


def curves(clips: pd.DataFrame, scores: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(roc, det): system, fpr, tpr and system, fpr, fnr of the test clips, scores averaged over windows and seeds."""
    table, parts = clips.set_index("clip_id").sort_index(), []
    for name, of in scores.groupby("system", sort=False):
        test = system_of(table, of).clip.test
        try:
            fpr, tpr = metrics.roc_points(test.labels, test.mean, max_points=_MAX_POINTS)
        except UndefinedMetricError:
            continue
        parts.append(pd.DataFrame({"system": name, "fpr": fpr, "tpr": tpr}))
    roc = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["system", "fpr", "tpr"])
    return roc, roc.assign(fnr=1 - roc["tpr"])[["system", "fpr", "fnr"]]


def calibration_curves(calibration: Mapping[str, Any] | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(reliability: predicted, observed, n; tippett: clips, log10_lr, share) of metrics.json's entry; or no rows."""
    known = calibration if calibration and calibration["reason"] is None else None
    reliability = pd.DataFrame(known["reliability"] if known else {"predicted": [], "observed": [], "n": []})
    points = [(name, *point) for name, of in known["tippett"].items() for point in of] if known else []
    return reliability, pd.DataFrame(points, columns=["clips", "log10_lr", "share"])
