"""What the benchmarks share: pairs measured in turn in one run, and a table of them."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from rich.console import Console
from rich.table import Table

RUNS = 5
Name = TypeVar("Name", bound=Hashable)
MACHINE = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"


@dataclass(frozen=True)
class Figure:
    """One comparison, in seconds for the same work."""

    figure: str
    goal: float
    ours_seconds: float
    theirs_seconds: float

    @property
    def ratio(self) -> float:
        """Above 1, ours is faster."""
        return self.theirs_seconds / self.ours_seconds


def compare(
    figure: str, ours: Callable[[], object], theirs: Callable[[], object], *, goal: float, runs: int = RUNS
) -> Figure:
    """Medians of `runs` turns, each one of ours and one of theirs, after one of each that does not count."""
    taken = in_turn({"ours": ours, "theirs": theirs}, runs)
    result = Figure(figure, goal, taken["ours"], taken["theirs"])
    Console(stderr=True).print(f"[dim]{figure}: {result.ratio:.3g}")
    return result


def in_turn(works: Mapping[Name, Callable[[], object]], runs: int = RUNS) -> dict[Name, float]:
    """Median seconds of each over `runs` rounds in which all have their turn, after one that does not count."""
    rounds = [{name: taken_s(work) for name, work in works.items()} for _ in range(runs + 1)]
    return {name: statistics.median(each[name] for each in rounds[1:]) for name in works}


def print_figures(figures: Sequence[Figure]) -> None:
    """The table, and the machine."""
    table = Table("figure", "ours", "theirs", "ratio", "goal", caption=MACHINE)
    for f in figures:
        table.add_row(
            f.figure, f"{f.ours_seconds:.4g} s", f"{f.theirs_seconds:.4g} s", f"{f.ratio:.3g}", f"{f.goal:.3g}"
        )
    Console().print(table)


def taken_s(work: Callable[[], object]) -> float:
    """How long it takes, by the clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
