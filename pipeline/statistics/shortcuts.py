"""Container properties that tell fake from real: what a detector could learn in place of faces and voices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cache_schemas.evaluation import PROPERTIES
from pipeline.statistics import metrics
from pipeline.statistics.metrics import UndefinedMetricError

SHORTCUT_AUC = 0.7
SHORTCUTS = dict(
    zip(
        PROPERTIES,
        ("duration", "leading silence", "loudness", "picture width", "picture height", "frame rate", "file size"),
        strict=True,
    )
)
"""Properties of the container and its sound that should know nothing about the label, and what to call them."""


def audit_shortcuts(test: pd.DataFrame, everything: pd.DataFrame, network_auc: float | None) -> dict[str, Any]:
    """How well each container property alone tells fake from real; test, everything: one row a clip.

    A property that is missing (NaN) more often in one class gives that class away too: `auc` is the larger of the
    separability of the known values and that of being known.
    """
    properties: list[dict[str, Any]] = [
        {"property": name, "test": shortcut_auc(test, name), "all": shortcut_auc(everything, name)}
        for name in SHORTCUTS
    ]
    for entry in properties:
        on_test = entry["test"]["auc"]
        entry["suspicious"] = max(entry[scope]["auc"] or 0.0 for scope in ("test", "all")) > SHORTCUT_AUC
        entry["beats_network"] = None not in (on_test, network_auc) and on_test >= network_auc
    return {
        "threshold": SHORTCUT_AUC,
        "network_auc": network_auc,
        "chance": {"test": chance_auc(test), "all": chance_auc(everything)},
        "properties": properties,
        "warning": _shortcut_warning(properties),
    }


def shortcut_auc(table: pd.DataFrame, name: str) -> dict[str, Any]:
    """How well the column `name` alone tells label 1 from 0: {auc, known, clips, reason}; its NaN are "not known"."""
    labels, values = table["label"].to_numpy(), table[name].to_numpy(dtype=float)
    known = np.isfinite(values)
    if not known.any():
        return {"auc": None, "known": 0, "clips": len(table), "reason": "known for no clip"}
    found = _separability(labels[known], values[known])
    if not known.all():
        absence = _separability(labels, known.astype(float))
        found = max(found, absence, key=lambda each: each["value"] or 0.0)
    return {"auc": found["value"], "known": int(known.sum()), "clips": len(table), "reason": found["reason"]}


def _separability(labels: NDArray[Any], values: NDArray[np.float64]) -> dict[str, Any]:
    try:
        return {"value": metrics.separability(labels, values), "reason": None}
    except UndefinedMetricError as error:
        return {"value": None, "reason": str(error)}


def chance_auc(table: pd.DataFrame) -> float | None:
    """What 19 of 20 columns that know nothing of the label stay below; None without both classes."""
    n_fake = int(table["label"].sum())
    try:
        return metrics.chance_separability(len(table) - n_fake, n_fake)
    except UndefinedMetricError:
        return None


def _shortcut_warning(properties: Sequence[Mapping[str, Any]]) -> str | None:
    suspicious = [SHORTCUTS[each["property"]] for each in properties if each["suspicious"]]
    beating = [SHORTCUTS[each["property"]] for each in properties if each["beats_network"]]
    parts = []
    if suspicious:
        parts.append(
            f"{_each(suspicious)} alone separates fake from real with an AUC above {SHORTCUT_AUC:g}: "
            "a detector can look right on these data without looking at a face or listening to a voice."
        )
    if beating:
        parts.append(f"{_each(beating)} alone does at least as well on the test split as the fusion network.")
    return " ".join(parts) or None


def _each(names: Sequence[str]) -> str:
    return f"Each of {', '.join(names)}" if len(names) > 1 else names[0].capitalize()
