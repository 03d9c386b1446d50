"""The report's plots as inline SVG: the same data give the same bytes, and the page's style colours them.

matplotlib draws with stand-in colours; they are then replaced by CSS variables, so that one drawing serves a light
page, a dark one and paper.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from scipy.special import ndtri

from cache_schemas.run import sites

INK, GRID, PAPER = "#010203", "#040506", "#070809"
COLOURS = {"fusion": "#0a0b01", "visual": "#0a0b02", "audio": "#0a0b03"}
_VARIABLES = {
    INK: "var(--ink)",
    GRID: "var(--line)",
    PAPER: "var(--paper)",
    **{colour: f"var(--{name})" for name, colour in COLOURS.items()},
}
_STYLE: Any = {
    "svg.hashsalt": "bmnas",
    "svg.fonttype": "none",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.0,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
CURVES = {
    "train_loss": "training loss",
    "val_loss": "validation loss",
    "val_auc": "validation AUC",
    "arch_grad_norm": "architecture gradient norm",
    "entropy_cells": "entropy: inputs of cells",
    "entropy_steps": "entropy: inputs of steps",
    "entropy_operations": "entropy: operations",
}
"""Column of the runs' curves -> title of its panel."""

_ABREAST = 4
_DET_TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999)


@mpl.rc_context(_STYLE)
def roc_svg(roc: pd.DataFrame, legends: Mapping[str, str]) -> str:
    """The ROC curves; roc: system, fpr, tpr; legends: network -> text; others are not drawn."""
    figure, (axes,) = _figure(4.6, 4.4, 1, 1)
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=1, linestyle="--")
    for name, group in roc[roc["system"].isin(list(legends))].groupby("system", sort=False):
        axes.plot(group["fpr"], group["tpr"], color=COLOURS[str(name)], linewidth=1.8, label=legends[str(name)])
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set(xlabel="real clips called fake", ylabel="fakes found", title="ROC")
    _legend(axes, "lower right")
    return _svg(figure, "roc")


@mpl.rc_context(_STYLE)
def det_svg(det: pd.DataFrame, legends: Mapping[str, str]) -> str:
    """The DET curves on probit axes; det: system, fpr, fnr; legends as above."""
    low, high = _DET_TICKS[0], _DET_TICKS[-1]
    limits = (ndtri(low) - 0.05, ndtri(high) + 0.05)
    figure, (axes,) = _figure(4.6, 4.4, 1, 1)
    axes.plot(limits, limits, color=GRID, linewidth=1, linestyle="--")
    for name, group in det[det["system"].isin(list(legends))].groupby("system", sort=False):
        x, y = (ndtri(group[column].clip(low, high)) for column in ("fpr", "fnr"))
        axes.plot(x, y, color=COLOURS[str(name)], linewidth=1.8, label=legends[str(name)])
    labels = [f"{100 * tick:g}" for tick in _DET_TICKS]
    axes.set_xticks(ndtri(_DET_TICKS), labels)
    axes.set_yticks(ndtri(_DET_TICKS), labels)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set(xlabel="real clips called fake, %", ylabel="fakes missed, %", title="DET")
    _legend(axes, "upper right")
    return _svg(figure, "det")


@mpl.rc_context(_STYLE)
def curves_svg(entries: Sequence[Mapping[str, Any]], key: str) -> str:
    """One panel per recorded quantity, one thin line per network and seed.

    entries: network, curves (one dict an epoch) and best_epoch (None, or the epoch that a dot marks).
    """
    names = [name for name in CURVES if any(row.get(name) is not None for e in entries for row in e["curves"])]
    figure, panels = _grid(len(names) + 1, 2.1)
    for axes, name in zip(panels, names, strict=False):
        for entry in entries:
            _curve(axes, entry, name)
        axes.set_title(CURVES[name])
        if name == "arch_grad_norm":
            axes.set_yscale("log")
    legend = panels[len(names)]
    for name in dict.fromkeys(entry["network"] for entry in entries):
        legend.plot([], [], color=COLOURS[name], label=name)
    legend.legend(loc="upper left", frameon=False, title="over epochs, one line per seed", alignment="left")
    legend.set_axis_off()
    return _svg(figure, key)


def _curve(axes: Axes, entry: Mapping[str, Any], name: str) -> None:
    points = [(row["epoch"], row[name]) for row in entry["curves"] if row.get(name) is not None]
    if not points:
        return
    x, y = np.array(points, dtype=float).T
    colour = COLOURS[entry["network"]]
    marker = "o" if len(points) == 1 else ""
    axes.plot(x, y, color=colour, linewidth=0.9, alpha=0.85, marker=marker, markersize=3)
    best = x == entry["best_epoch"]
    axes.plot(x[best], y[best], color=colour, marker="o", markersize=4, linestyle="")


@mpl.rc_context(_STYLE)
def probabilities_svg(runs: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """What the search came to prefer: a bar per candidate (mean over the runs) and a dot per run.

    runs: per seed, the cells with inputs, x and y (or skip), and steps with the same and operations.
    """
    of_runs = [sites(run) for run in runs]
    names = list(of_runs[0])
    figure, panels = _grid(len(names), 0.55 + 0.17 * max(len(site) for site in of_runs[0].values()))
    for axes, name in zip(panels, names, strict=False):
        options = list(of_runs[0][name])
        values = np.array([[run[name][option] for option in options] for run in of_runs])
        places = np.arange(len(options))
        axes.barh(places, values.mean(axis=0), color=COLOURS["fusion"], alpha=0.35, height=0.7)
        for row in values:
            axes.plot(row, places, color=COLOURS["fusion"], marker="o", markersize=2.5, linestyle="")
        if not name.endswith("(skip)"):
            axes.axvline(1 / len(options), color=INK, linewidth=0.7, linestyle=":")
        axes.set_yticks(places, [_last(option) for option in options], fontsize=7.5)
        axes.set(xlim=(0, 1.02), ylim=(len(options) - 0.4, -0.6), title=name)
    return _svg(figure, "probabilities")


@mpl.rc_context(_STYLE)
def history_svg(history: Mapping[str, Mapping[str, Sequence[float]]], key: str) -> str:
    """How one search came to its choices: a panel per choice, a line per option; what it ends with is named.

    history: {site: {option: probability after each epoch}}.
    """
    figure, panels = _grid(len(history), 1.35, more=0.4)
    for axes, (site, options) in zip(panels, history.items(), strict=False):
        kept = 2 if site.endswith("(skip)") else 1  # of the edges {none, skip}, a node keeps two
        ending = sorted(options, key=lambda option: -options[option][-1])[:kept]
        for option, values in options.items():
            strong = option in ending
            axes.plot(
                range(1, len(values) + 1),
                values,
                color=_option_colour(option),
                linewidth=1.8 if strong else 0.7,
                alpha=1 if strong else 0.5,
                marker="" if len(values) > 1 else "o",
                markersize=3,
            )
        for line, option in enumerate(ending):
            place = (0.03, 0.96 - 0.13 * line)
            axes.text(
                *place, _last(option), transform=axes.transAxes, va="top", color=_option_colour(option), fontsize=7.5
            )
        axes.set_ylim(-0.02, 1.05)
        axes.set_title(site, fontsize=8.5)
    for axes in panels[max(len(history) - _ABREAST, 0) : len(history)]:
        axes.set_xlabel("epoch")
    return _svg(figure, key)


def _option_colour(option: str) -> str:
    """A layer's: its modality's; that of cells, steps and operations: fusion's."""
    return COLOURS.get(option.partition("/")[0], COLOURS["fusion"])


def _last(name: str) -> str:
    """A layer's name without its backbone's, for the narrow margin of a panel."""
    modality, slash, layer = name.partition("/")
    return f"{modality} {layer.partition('.')[2] or layer}" if slash else name


def _figure(width: float, height: float, rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in panels:
        axes.grid(color=GRID, linewidth=0.5, alpha=0.6)
        axes.set_axisbelow(True)
    return figure, panels


def _grid(count: int, height: float, more: float = 0.0) -> tuple[Figure, list[Axes]]:
    """A figure of at least `count` panels; the others are off. height: of a row, and so much more of the whole."""
    columns = min(_ABREAST, count)
    rows = -(-count // columns)
    figure, panels = _figure(2.9 * columns, more + height * rows, rows, columns)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels


def _legend(axes: Axes, place: Literal["lower right", "upper right"]) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, frameon=True, facecolor=PAPER, edgecolor="none", framealpha=1)


def _svg(figure: Figure, key: str) -> str:
    """The figure as an <svg> element whose ids begin with `key`: several share one page."""
    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\1{key}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return text.replace("<svg", f'<svg class="plot" role="img" aria-label="{key}"', 1)
