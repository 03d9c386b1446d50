"""The report's interactive figures as Vega-Lite specifications: pure functions of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy.special import ndtri

from pipeline.figures.vega import HOVER, Spec

Row = Mapping[str, Any]
_NAMED = {name: f"var(--{name})" for name in ("fusion", "visual", "audio")} | {
    "fake clips": "var(--loud)",
    "real clips": "var(--visual)",
}
_OTHERS = ("var(--ink)", "var(--loud)", "var(--soft)")
_DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))
_DET_TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999)


@dataclass(frozen=True)
class Axis:
    """title: with the unit; ends: of the scale, None: those of the data; labels: {place: text} of the ticks."""

    title: str
    ends: tuple[float, float] | None = (0.0, 1.0)
    labels: Mapping[float, str] = field(default_factory=dict)

    def channel(self, name: str) -> Spec:
        """The encoding of a field along it."""
        scale = {"domain": list(self.ends), "nice": False, "clamp": True} if self.ends else {"zero": False}
        axis: Spec = {"title": self.title, "tickCount": 5}
        if self.labels:
            last = len(self.labels) - 1
            texts = list(self.labels.values())
            axis |= {"values": list(self.labels), "labelExpr": f"{texts!r}[round(datum.index * {last})]"}
        return {"field": name, "type": "quantitative", "scale": scale, "axis": axis}


def forest(rows: Sequence[Row], *, axis: Axis, at: float | None = None) -> Spec:
    """A dot and its interval a row; rows: name, value, low, high, text (value and interval in words), loud.

    at: where a line marks what means nothing: a coin, no difference.
    """
    data = [{**row, "place": number} for number, row in enumerate(rows) if row["value"] is not None]
    y = {"field": "name", "type": "nominal", "sort": {"field": "place"}, "axis": {"title": None, "grid": False}}
    colour = {"condition": {"test": "datum.loud", "value": "var(--loud)"}, "value": "var(--fusion)"}
    tooltip = [{"field": "name", "title": "of"}, {"field": "text", "title": "value (95 % interval)"}]
    x = axis.channel("low")
    marks: list[Spec] = [
        {
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": {"y": y, "x": x, "x2": {"field": "high"}, "color": colour, "tooltip": tooltip},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
            "encoding": {"y": y, "x": axis.channel("value"), "color": colour, "tooltip": tooltip},
        },
    ]
    if at is not None:
        mark = {"type": "rule", "color": "var(--soft)", "strokeDash": [4, 3]}
        marks.insert(0, {"mark": mark, "encoding": {"x": {"datum": at, "type": "quantitative", "scale": x["scale"]}}})
    return {"data": {"values": data}, "width": 420, "height": 24 * max(1, len(data)), "layer": marks}


def lines(
    rows: Sequence[Row], *, x: Axis, y: Axis, diagonal: bool = False, step: bool = False, points: bool = False
) -> Spec:
    """A line per series, in the order of its rows; rows: series, x, y, and what the tooltip says: text.

    diagonal: a line marks x = y. step: level from the point before it. points: a dot at each.
    """
    names = list(dict.fromkeys(str(row["series"]) for row in rows))
    colours, dashes = series_style(names)
    horizontal, vertical = x.channel("x"), y.channel("y")
    # Not `nearest`: Vega-Lite 6.4 then says "undefined" in tooltips.
    touched = {"name": "touched", "select": {"type": "point", "on": "pointerover", "clear": "pointerout"}}
    chosen = {"name": "chosen", "select": {"type": "point", "fields": ["series"]}, "bind": "legend"}
    legend = {"title": None, "orient": "bottom", "columns": 1}
    encoding = {
        "x": horizontal,
        "y": vertical,
        "color": {
            "field": "series",
            "type": "nominal",
            "scale": {"domain": names, "range": colours},
            "legend": legend,
        },
        "strokeDash": {
            "field": "series",
            "type": "nominal",
            "scale": {"domain": names, "range": dashes},
            "legend": legend,
        },
        "opacity": {"condition": {"param": "chosen", "value": 1}, "value": 0.2},
    }
    line: Spec = {"type": "line", "strokeWidth": 2, "clip": True}
    line |= {"interpolate": "step-before"} if step else {}
    line |= {"point": {"size": 40}} if points else {}
    tooltip = [{"field": "series", "title": "of"}, {"field": "text", "title": "here"}]
    marks: list[Spec] = [
        {"mark": line, "encoding": {**encoding, "order": {"field": "place"}}, "params": [chosen]},
        {
            "name": HOVER,
            "mark": {"type": "point", "filled": True, "size": 160},
            "params": [touched],
            "encoding": {
                "x": horizontal,
                "y": vertical,
                "color": {"value": "var(--ink)"},
                "opacity": {"condition": {"param": "touched", "empty": False, "value": 1}, "value": 0},
                "tooltip": tooltip,
            },
        },
    ]
    if diagonal:
        ends = x.ends or (0.0, 1.0)
        mark = {"type": "line", "color": "var(--soft)", "strokeDash": [4, 3], "strokeWidth": 1}
        at = [{"x": end, "y": end} for end in ends]
        marks.insert(0, {"data": {"values": at}, "mark": mark, "encoding": {"x": horizontal, "y": vertical}})
    data = [{**row, "place": number} for number, row in enumerate(rows)]
    return {"data": {"values": data}, "width": 400, "height": 320, "layer": marks}


def heat_map(rows: Sequence[Row], *, x_title: str, y_title: str) -> Spec:
    """AUCs as a matrix, each number in its square; rows: row, column, auc (None: undefined), text.

    The further from a coin, the fuller the colour; what is below a coin has another one.
    """
    x: Spec = {"field": "column", "type": "nominal", "sort": None, "title": x_title, "axis": {"labelAngle": -30}}
    y = {"field": "row", "type": "nominal", "sort": None, "title": None}
    full = {"field": "strength", "type": "quantitative", "scale": {"domain": [0, 0.5], "range": [0.03, 0.55]}}
    aucs = [0.5 if row["auc"] is None else row["auc"] for row in rows]
    data = [
        {**row, "strength": abs(auc - 0.5), "below": auc < 0.5, "number": "—" if row["auc"] is None else f"{auc:.2f}"}
        for row, auc in zip(rows, aucs, strict=True)
    ]
    tooltip = [
        {"field": "row", "title": y_title},
        {"field": "column", "title": x_title},
        {"field": "text", "title": "AUC (95 % interval)"},
    ]
    square = {
        "mark": {"type": "rect", "stroke": "var(--paper)"},
        "encoding": {
            "x": {**x, "axis": {**x["axis"], "grid": False}},
            "y": y,
            "fillOpacity": {**full, "legend": None},
            "fill": {"condition": {"test": "datum.below", "value": "var(--loud)"}, "value": "var(--fusion)"},
            "tooltip": tooltip,
        },
    }
    number = {"mark": {"type": "text", "fontSize": 12}, "encoding": {"x": x, "y": y, "text": {"field": "number"}}}
    return {"data": {"values": data}, "width": {"step": 76}, "height": {"step": 30}, "layer": [square, number]}


def det_axis(title: str) -> Axis:
    """Error rates stretched as a normal distribution is: places are `det_place` of them."""
    ends = (det_place(_DET_TICKS[0]), det_place(_DET_TICKS[-1]))
    return Axis(title, ends, {det_place(rate): f"{100 * rate:g}" for rate in _DET_TICKS})


def det_place(rate: float) -> float:
    """Where a rate stands on such an axis; what is beyond its ends stands on them."""
    return float(ndtri(min(max(rate, _DET_TICKS[0]), _DET_TICKS[-1])))


def series_style(names: Sequence[str]) -> tuple[list[str], list[list[int]]]:
    """(colour, dashes) of each line: what has a colour of its own is solid, others differ in their dashes, too."""
    own = [name for name in names if name in _NAMED]
    others = [name for name in names if name not in _NAMED]
    colours = _NAMED | {name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(others)}
    dashes = {name: _DASHES[(i // len(_OTHERS) + bool(own)) % len(_DASHES)] for i, name in enumerate(others)}
    return [colours[name] for name in names], [list(dashes.get(name, _DASHES[0])) for name in names]
