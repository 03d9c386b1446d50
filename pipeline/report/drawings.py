"""The report's figures, of metrics.json and of what other commands left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from cache_schemas.run import NETWORKS
from pipeline.figures.charts import Axis, Row, det_axis, det_place, forest, heat_map, lines
from pipeline.figures.vega import chart
from pipeline.report.page import in_words
from pipeline.report.verdict import Json, span_of
from pipeline.statistics.means import MEANS
from pipeline.statistics.systems import FUSION

_MODALITIES = {"visual": "the picture damaged", "audio": "the sound damaged", "both": "both"}
_MOST_POINTS = 120
"""Of a curve: more are more bytes, not more to see."""


def charts(metrics: Json, curves: Mapping[str, pd.DataFrame]) -> dict[str, Markup]:
    """The figures of evaluate's numbers; curves: roc and det, as evaluate writes them, of networks and controls."""
    head = metrics["headline"] or {}
    shown = [*NETWORKS, (head.get("adds") or {}).get("control")]
    drawn = {name: curve[curve["system"].isin(shown)] for name, curve in curves.items()}
    found = {"systems": _systems(metrics), "roc": _roc(drawn["roc"]), "det": _det(drawn["det"])}
    if FUSION in metrics["systems"]:
        found["methods"] = _methods(metrics["systems"][FUSION]["per_method"])
    if (metrics["calibration"] or {}).get("kind"):
        found |= {"reliability": _reliability(metrics["calibration"]), "tippett": _tippett(metrics["calibration"])}
    return found


def _systems(metrics: Json) -> Markup:
    ordered = sorted(metrics["systems"].items(), key=lambda item: -(item[1]["clip"]["auc"]["value"] or 0))
    rows = [forest_row(name, system["clip"]["auc"], loud=False) for name, system in ordered]
    axis = Axis("clip AUC", _from(rows, 0.4))
    return chart("systems", "AUC of networks and controls", said(rows), forest(rows, axis=axis, at=0.5))


def _methods(parts: Mapping[str, Json]) -> Markup:
    rows = [forest_row(name, part["apcer"]) for name, part in parts.items()]
    rows.sort(key=lambda row: -(row["value"] or 0))
    if rows:
        rows[0]["loud"] = bool(rows[0]["value"])
    axis = Axis("APCER")
    return chart("methods", "APCER per method of forgery", said(rows), forest(rows, axis=axis))


def forest_row(name: str, value: Mapping[str, Any], *, loud: bool = False) -> Json:
    """A row of `forest`; without an interval its ends are the value."""
    middle = value["value"]
    low, high = (middle if value.get(end) is None else value[end] for end in ("low", "high"))
    return {"name": name, "value": middle, "low": low, "high": high, "text": in_words(value), "loud": loud}


def said(rows: Sequence[Row]) -> str:
    """A forest in words, for who cannot see it."""
    return "; ".join(f"{row['name']}: {row['text']}" for row in rows)


def _from(rows: Sequence[Row], most: float) -> tuple[float, float]:
    """An axis from below the lowest end to 1."""
    return min([most, *(row["low"] for row in rows if row["low"] is not None)]), 1.0


def _thinned(table: pd.DataFrame) -> pd.DataFrame:
    step = max(1, -(-len(table) // _MOST_POINTS))
    return pd.concat([table.iloc[:-1:step], table.iloc[-1:]])


def _roc(roc: pd.DataFrame) -> Markup:
    rows = [
        {"series": str(name), "x": x, "y": y, "text": f"APCER {1 - y:.1%}, BPCER {x:.1%}"}
        for name, group in roc.groupby("system", sort=False)
        for x, y in _thinned(group)[["fpr", "tpr"]].to_numpy().tolist()
    ]
    spec = lines(rows, x=Axis("real clips called fake (BPCER)"), y=Axis("fakes found (1 less APCER)"), diagonal=True)
    return chart("roc", "ROC curves", "One curve a network; roc.csv of work/evaluate holds the points.", spec)


def _det(det: pd.DataFrame) -> Markup:
    rows = [
        {"series": str(name), "x": det_place(x), "y": det_place(y), "text": f"APCER {y:.1%}, BPCER {x:.1%}"}
        for name, group in det.groupby("system", sort=False)
        for x, y in _thinned(group)[["fpr", "fnr"]].to_numpy().tolist()
    ]
    spec = lines(rows, x=det_axis("BPCER, %"), y=det_axis("APCER, %"), diagonal=True)
    return chart("det", "DET curves", "One curve a network; det.csv of work/evaluate holds the points.", spec)


def _reliability(calibration: Json) -> Markup:
    points = calibration["reliability"]
    rows = [
        {"series": FUSION, "x": x, "y": y, "text": f"said {x:.2f}, {y:.2f} are fake ({n} clips)"}
        for x, y, n in zip(points["predicted"], points["observed"], points["n"], strict=True)
        if n
    ]
    spec = lines(
        rows, x=Axis("P(fake) that the network says"), y=Axis("share that is fake"), diagonal=True, points=True
    )
    return chart("reliability", "Reliability diagram", "; ".join(row["text"] for row in rows), spec)


def _tippett(calibration: Json) -> Markup:
    rows = [
        {"series": name, "x": x, "y": y, "text": f"{y:.1%} have a log10 LR of {x:.2f} or more"}
        for side, name in (("fake", "fake clips"), ("real", "real clips"))
        for x, y in calibration["tippett"][side]
    ]
    axis = Axis("log10 likelihood ratio, fake against real", None)
    spec = lines(rows, x=axis, y=Axis("share of clips at or above"), step=True)
    return chart("tippett", "Tippett plot", "The share of real and of fake clips at or above each log10 LR.", spec)


def heat_map_of(protocol: Json, number: int) -> Markup:
    """Trainings by methods or, where a training has several tests, by tests (the first method's).

    Trainings whose tests hold one class only, which has no AUC, are left to the table.
    """
    known = {row["trained_on"] for row in protocol["rows"] if row["auc"] is not None}
    rows = [row for row in protocol["rows"] if row["trained_on"] not in MEANS and row["trained_on"] in known]
    tests = {(row["trained_on"], row["tested_on"]) for row in rows}
    matrix = len(tests) > len({trained for trained, _ in tests})
    shown = [row for row in rows if not matrix or row["method"] == rows[0]["method"]]
    cells = [
        {
            "row": row["trained_on"],
            "column": row["tested_on"] if matrix else row["method"],
            "auc": row["auc"],
            "text": in_words(span_of(row)),
        }
        for row in shown
    ]
    what = f"Clip AUC of protocol {protocol['name']}"
    told = "; ".join(f"{cell['row']}, {cell['column']}: {cell['text']}" for cell in cells)
    x = "tested on" if matrix else "method"
    return chart(
        f"protocol{number}", what, f"trained on, {x}: {told}", heat_map(cells, x_title=x, y_title="trained on")
    )


def risk(systems: Mapping[str, Json]) -> Markup:
    """Risk against coverage; systems: those that metrics.json measured evidence of."""
    points = [
        {"series": name, "x": x, "y": y, "text": f"{x:.0%} answered, {y:.1%} of them wrong"}
        for name, of in systems.items()
        for x, y in zip(of["curve"]["coverage"], of["curve"]["risk"], strict=True)
    ]
    highest = max(point["y"] for point in points) or 1.0
    spec = lines(points, x=Axis("coverage: share that is answered"), y=Axis("risk: share that is wrong", (0, highest)))
    described = "; ".join(f"{name}: area {in_words(of['area'])}" for name, of in systems.items())
    return chart("risk", "Risk against coverage", described, spec)


def severities(modality: str, curves: Sequence[Json], system: str) -> Markup:
    """AUC of a system against severity, a line a damage; curves: of `sections.robustness`."""
    rows = []
    for curve in curves:
        values = dict(curve["rows"])[system]
        for number, (setting, value) in enumerate(zip(["as it is", *curve["settings"]], values, strict=True)):
            text = f"{setting}: AUC {in_words(value)}"
            rows.append({"series": curve["title"], "x": number, "y": value["value"], "text": text})
    rows = [row for row in rows if row["y"] is not None]
    low = min([0.5, *(row["y"] for row in rows)])
    axis = Axis("severity; 0: the clips as they are", None)
    spec = lines(rows, x=axis, y=Axis(f"clip AUC, {system}", (low, 1.0)), points=True)
    described = "; ".join(f"{row['series']}, {row['text']}" for row in rows)
    return chart(f"robust-{modality}", f"AUC against severity: {_MODALITIES[modality]}", described, spec)
