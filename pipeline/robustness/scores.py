"""From the scores of degraded clips to AUC against severity: pure functions of tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pipeline.robustness.degrade import DEGRADATIONS
from pipeline.statistics.tables import clips
from pipeline.statistics.values import Value, measured, people_drawn

CLEAN = "none"
"""The degradation's name of clips as they are, in scores.csv."""


def robustness(scores: pd.DataFrame, left_out: Sequence[dict[str, Any]], *, seed: int) -> dict[str, Any]:
    """The content of robustness.json.

    scores: the rows of scores.csv, those of degradation CLEAN among them; left_out: {degradation, clip_id, path,
    reason} of clips that are in none of a curve's points. A curve's `clean` is of the clips that are in its points.
    """
    clean = scores[scores["degradation"] == CLEAN]
    systems = list(dict.fromkeys(clean["system"]))
    curves = []
    for name in DEGRADATIONS:
        rows = scores[scores["degradation"] == name]
        if len(rows):
            same = clean[clean["clip_id"].isin(rows["clip_id"].unique())]
            points = [
                {"severity": int(of["severity"].iloc[0]), "setting": str(of["setting"].iloc[0])}
                | _point(of, systems, seed)
                for _, of in rows.groupby("severity", sort=True)
            ]
            degradation = DEGRADATIONS[name]
            told = {"degradation": name, "title": degradation.title, "modality": degradation.modality}
            curves.append(told | {"clean": _point(same, systems, seed)["systems"], "severities": points})
    table = clips(clean)
    return {
        "schema_version": 1,
        "clips": len(table),
        "fake_clips": int(table["label"].sum()),
        "people": int(table["subject_id"].nunique()),
        "clean": {system: {"auc": value} for system, value in _point(clean, systems, seed)["systems"].items()},
        "curves": curves,
        "left_out": list(left_out),
    }


def _point(rows: pd.DataFrame, systems: Sequence[str], seed: int) -> dict[str, Any]:
    """One condition's number of clips and windows, and each system's AUC."""
    one = rows[rows["system"] == systems[0]].drop_duplicates(["clip_id", "window", "start_s"])
    values = {system: _auc(rows[rows["system"] == system], seed) for system in systems}
    return {"clips": int(one["clip_id"].nunique()), "windows": len(one), "systems": values}


def _auc(rows: pd.DataFrame, seed: int) -> Value:
    """Of the clips' mean scores over windows and seeds, with its interval over people."""
    table = clips(rows)
    score = rows.groupby("clip_id", sort=False)["score"].mean().loc[table.index].to_numpy()
    draws = people_drawn(table["subject_id"], seed=seed)
    return measured(table["label"].to_numpy(), score, "", draws, ("auc",))[0]["auc"]


def as_table(found: dict[str, Any]) -> pd.DataFrame:
    """The rows of robustness.csv: a row a degradation, severity (0: the same clips as they are) and system."""
    rows = []
    for curve in found["curves"]:
        first = curve["severities"][0]
        whole = {"severity": 0, "setting": "as it is", "clips": first["clips"], "systems": curve["clean"]}
        told = {name: curve[name] for name in ("degradation", "title", "modality")}
        for point in (whole, *curve["severities"]):
            place = {name: point[name] for name in ("severity", "setting", "clips")}
            rows += [told | place | {"system": system, **value} for system, value in point["systems"].items()]
    table = pd.DataFrame(rows)
    return table.rename(columns={"value": "auc"})
