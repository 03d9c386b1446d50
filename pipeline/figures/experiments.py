"""The figures of `bmnas oracle` and `bmnas sweep`, in the manner of the report's."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cache_schemas.oracle import EXHAUSTIVE, FIXED, RANDOM, OracleTable, Pick
from pipeline.figures.curves import _STYLE, COLOURS, GRID, INK, _figure, _svg
from pipeline.figures.palette import in_light

_SPACES = {"slots": COLOURS["fusion"], "bmnas": COLOURS["visual"]}
_LINES = ("-", "--", "-.", ":")
_MARKERS = "osD^vP*X"


def standalone(svg: str) -> str:
    """An inline plot as a file of its own, in the report's light colours."""
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    head, _, rest = svg.replace("<svg", f"<svg {namespaces}", 1).partition(">")
    return in_light(f"{head}>\n<style>svg {{ background: var(--paper); }}</style>{rest}\n")


@mpl.rc_context(_STYLE)
def oracle_svg(table: OracleTable) -> str:
    """The space from best to worst with what methods picked, their regrets beside the noise, and Kendall's tau."""
    methods = list(dict.fromkeys((pick.method, pick.space) for pick in table.picks))
    figure, panels = _figure(11.5, 2.6 + 0.17 * len(methods), 1, 3)
    _space_panel(panels[0], table)
    _method_panel(panels[1], table, methods, "regret", "regret: test AUC below the best")
    if table.noise is not None:
        panels[1].axvline(table.noise, color=INK, linewidth=0.8, linestyle=":")
        panels[1].set_title("dots: picks, bar: mean, dotted: retraining noise")
    _method_panel(panels[2], table, methods, "kendall_tau", "Kendall's tau, shared weights against truth")
    panels[2].set_yticklabels([])
    return _svg(figure, "oracle")


def _space_panel(axes: Axes, table: OracleTable) -> None:
    ranks = np.array([entry.rank for entry in table.entries])
    auc = np.array([entry.test_auc for entry in table.entries])
    spread = np.array([entry.test_auc_std or 0.0 for entry in table.entries])
    axes.fill_between(ranks, auc - spread, auc + spread, color=GRID, alpha=0.6, linewidth=0)
    axes.plot(ranks, auc, color=INK, linewidth=1.2)
    for pick in table.picks:
        axes.plot(pick.rank, pick.test_auc, color=_colour(pick), marker="o", markersize=3, alpha=0.4)
    axes.set(xlabel="true rank", ylabel="test AUC", title=f"{len(ranks)} architectures, spread over seeds")


def _method_panel(axes: Axes, table: OracleTable, methods: Sequence[tuple[str, str]], column: str, label: str) -> None:
    for place, method in enumerate(methods):
        of_method = [pick for pick in table.picks if (pick.method, pick.space) == method]
        values = [getattr(pick, column) for pick in of_method if getattr(pick, column) is not None]
        if values:
            colour = _colour(of_method[0])
            axes.barh(place, float(np.mean(values)), color=colour, alpha=0.35, height=0.7)
            # Equal picks lie side by side: the multiples of the golden ratio spread any number of dots evenly.
            places = place + 0.5 * (np.arange(len(values)) * 0.618 % 1 - 0.5)
            axes.plot(values, places, color=colour, marker="o", markersize=2.5, linestyle="", alpha=0.6)
    axes.use_sticky_edges = False  # a regret of 0 is not cut in half by the axis
    axes.set_yticks(range(len(methods)), [f"{method}, {space}" for method, space in methods], fontsize=7.5)
    axes.set(ylim=(len(methods) - 0.4, -0.6), xlabel=label)


def _colour(pick: Pick) -> str:
    """Searched: the space's; methods without a search: another."""
    return COLOURS["audio"] if pick.method in (RANDOM, FIXED, EXHAUSTIVE) else _SPACES[pick.space]


@mpl.rc_context(_STYLE)
def sweep_svg(runs: pd.DataFrame, axes_names: Sequence[str], columns: dict[str, str]) -> str:
    """Mean and spread over seeds of each column over the first grid axis, a line per value of the others.

    runs: one row a run; columns: {column: title of its panel}.
    """
    first, others = axes_names[0], list(axes_names[1:])
    ticks = list(dict.fromkeys(runs[first]))
    groups: list[tuple[Any, pd.DataFrame]] = list(runs.groupby(others, sort=False)) if others else [((), runs)]
    figure, panels = _figure(4.2 * len(columns), 3.4, 1, len(columns))
    for axes, (column, title) in zip(panels, columns.items(), strict=True):
        for i, (values, group) in enumerate(groups):
            label = ", ".join(f"{name} {value}" for name, value in zip(others, values, strict=True))
            by_tick = group.groupby(first)[column].agg(["mean", "std"]).reindex(ticks)
            _line(axes, by_tick, i, len(groups), label)
        axes.set_xticks(range(len(ticks)), [f"{tick:g}" if isinstance(tick, float) else str(tick) for tick in ticks])
        axes.set(xlabel=first, title=title)
    if others:
        panels[-1].legend(frameon=False, fontsize=7.5)
    return _svg(figure, "sweep")


def _line(axes: Axes, by_tick: pd.DataFrame, line: int, lines: int, label: str) -> None:
    """Mean with its spread; by_tick: mean and std per tick."""
    places = np.arange(len(by_tick)) + 0.25 * (line / max(lines - 1, 1) - 0.5)  # side by side: no bar hides another
    colours = list(COLOURS.values())
    axes.errorbar(
        places,
        by_tick["mean"],
        yerr=by_tick["std"].fillna(0.0),
        color=colours[line % len(colours)],
        linestyle=_LINES[line // len(colours) % len(_LINES)],
        marker=_MARKERS[line % len(_MARKERS)],
        markersize=3.5,
        linewidth=1.2,
        capsize=2,
        label=label,
    )


@mpl.rc_context(_STYLE)
def baselines_svg(table: pd.DataFrame) -> str:
    """A dot a method with its interval over subjects, searches apart from what they must beat.

    table: rows of baselines.csv, the best first.
    """
    figure, (axes,) = _figure(9.0, 1.0 + 0.2 * len(table), 1, 1)
    for place, row in enumerate(table.to_dict("records")):
        colour = COLOURS["fusion"] if str(row["method"]).startswith("search") else COLOURS["visual"]
        ends = [float(row[name] if row[name] is not None else "nan") for name in ("auc_low", "auc_high", "auc")]
        axes.plot(ends[:2], [place, place], color=colour, linewidth=1.4, alpha=0.6)
        axes.plot(ends[2], place, color=colour, marker="o", markersize=4)
    axes.axvline(0.5, color=INK, linewidth=0.7, linestyle=":")
    axes.set_yticks(range(len(table)), list(table["method"]), fontsize=7.5)
    axes.set(ylim=(len(table) - 0.4, -0.6), xlabel="clip AUC on the test split, 95 % interval over subjects")
    return _svg(figure, "baselines")


@mpl.rc_context(_STYLE)
def protocol_svg(table: pd.DataFrame, *, description: str) -> str:
    """A heat map of AUCs: trainings by methods, or, where a training has several tests, by tests (the first method's).

    table: rows of a protocol's table.csv. What is not defined stays empty.
    """
    matrix = (table.groupby(["trained_on", "method"], sort=False)["tested_on"].nunique() > 1).any()
    shown, column = (table[table["method"] == table["method"].iloc[0]], "tested_on") if matrix else (table, "method")
    grid = shown.pivot_table(index="trained_on", columns=column, values="auc", sort=False, dropna=False)
    figure, (axes,) = _figure(2.6 + 1.1 * grid.shape[1], 1.6 + 0.3 * len(grid), 1, 1)
    image = axes.imshow(grid.to_numpy(float), vmin=0.5, vmax=1, cmap="viridis", aspect="auto")
    for (y, x), value in np.ndenumerate(grid.to_numpy(float)):
        if np.isfinite(value):
            dark = value > _LIGHT_AUC
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color="black" if dark else "white")
    axes.set_xticks(range(grid.shape[1]), [textwrap.fill(str(name), 16) for name in grid.columns], fontsize=7.5)
    axes.set_yticks(range(len(grid)), list(grid.index), fontsize=7.5)
    axes.set(xlabel="tested on" if matrix else "", ylabel="trained on", title=textwrap.fill(description, 70))
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label="clip AUC", shrink=0.8)
    return _svg(figure, "protocol")


_LIGHT_AUC = 0.8  # the colours of more are light
