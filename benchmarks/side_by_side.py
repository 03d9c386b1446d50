"""What the benchmarks share: pairs measured in turn in one run, a table, and benchmarks/results/NAME.json."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

RUNS = 5


@dataclass(frozen=True)
class Figure:
    """One comparison. ratio = theirs / ours in seconds for the same work: above 1, ours is faster."""

    figure: str
    ratio: float
    goal: float
    ours_seconds: float
    theirs_seconds: float
    runs: int
    machine: str


def compare(
    figure: str, ours: Callable[[], object], theirs: Callable[[], object], *, goal: float, runs: int = RUNS
) -> Figure:
    """Medians of `runs` turns, each one of ours and one of theirs, after one of each that does not count."""
    ours(), theirs()
    pairs = [(taken_s(ours), taken_s(theirs)) for _ in range(runs)]
    mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    result = Figure(figure, other / mine, goal, mine, other, runs, machine)
    Console(stderr=True).print(f"[dim]{figure}: {result.ratio:.3g}")
    return result


def publish(name: str, figures: list[Figure]) -> None:
    """Prints the table and writes benchmarks/results/NAME.json."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")
    table = Table("figure", "ours", "theirs", "ratio", "goal")
    for f in figures:
        table.add_row(f.figure, f"{f.ours_seconds:.4g} s", f"{f.theirs_seconds:.4g} s", f"{f.ratio:.3g}", f"{f.goal:g}")
    Console().print(table)


def taken_s(work: Callable[[], object]) -> float:
    """How long it takes, by the clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
