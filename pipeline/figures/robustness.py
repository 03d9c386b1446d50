"""The figure of `bmnas robustness`: a panel a degradation, AUC against severity, a line a system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pipeline.figures.curves import _STYLE, COLOURS, GRID, INK, _grid, _svg

_DRAWN: Mapping[str, Any] = {"linewidth": 1.5, "marker": "o", "markersize": 3}
_OTHER: Mapping[str, Any] = {"linewidth": 1.1, "marker": "s", "markersize": 2.5, "linestyle": "--"}
_WITH_BAND = "fusion"
"""The one whose intervals are drawn; those of all would hide each other, and stand in the table."""


@mpl.rc_context(_STYLE)
def robustness_svg(table: pd.DataFrame) -> str:
    """table: rows of robustness.csv. Severity 0 is the same clips as they are; what is not defined stays empty."""
    curves = list(table.groupby("degradation", sort=False))
    figure, panels = _grid(len(curves) + 1, 2.3)
    values = table[["auc", "low"]].to_numpy(float)
    lowest = min(0.45, float(np.nanmin(values)) - 0.02) if np.isfinite(values).any() else 0.0
    for axes, (_, curve) in zip(panels, curves, strict=False):
        _panel(axes, curve)
        axes.set_ylim(max(lowest, -0.02), 1.02)
    legend = panels[len(curves)]
    for system in dict.fromkeys(table["system"]):
        legend.plot([], [], label=system, **_style(system))
    legend.fill_between([], [], [], color=COLOURS[_WITH_BAND], alpha=0.15, linewidth=0, label=f"95 %, {_WITH_BAND}")
    legend.legend(loc="upper left", frameon=False, title="clip AUC", alignment="left", fontsize=7.5)
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    return _svg(figure, "robustness")


def _panel(axes: Axes, curve: pd.DataFrame) -> None:
    """One degradation: from the clips as they are to its severest setting."""
    points = curve.drop_duplicates("severity").sort_values("severity")
    places = {severity: place for place, severity in enumerate(points["severity"])}
    axes.axhline(0.5, color=GRID, linewidth=1, linestyle="--")
    for system, rows in curve.sort_values("severity").groupby("system", sort=False):
        x = [places[severity] for severity in rows["severity"]]
        low, auc, high = (rows[name].to_numpy(float) for name in ("low", "auc", "high"))
        if system == _WITH_BAND:
            axes.fill_between(x, low, high, color=COLOURS[_WITH_BAND], alpha=0.15, linewidth=0)
        axes.plot(x, auc, **_style(str(system)))
    ticks = [str(setting) for setting in points["setting"]]
    axes.set_xticks(range(len(ticks)), ticks, fontsize=6.5, rotation=30, ha="right")
    axes.set_title(f"{points['title'].iloc[0]} ({points['clips'].iloc[0]} clips)", fontsize=8.5)


def _style(system: str) -> dict[str, Any]:
    return {"color": COLOURS.get(system, INK), **(_DRAWN if system in COLOURS else _OTHER)}
