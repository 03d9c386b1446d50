"""Progress bars, and the console that they share with messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True)


class Advance(Protocol):
    """Moves a progress bar by so many units; `note` stands behind it."""

    def __call__(self, amount: float, note: str = "") -> None: ...


@contextmanager
def progress_bar(title: str, *, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
    """Yields a function that advances the bar by so many units; `done` of them took no time."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    # Batches of minutes: the remaining time is told from all of them, not from those of the last 30 s.
    with Progress(*columns, console=console, speed_estimate_period=3600.0) as progress:
        bar = progress.add_task(title, total=total, completed=done, note="")
        yield lambda amount, note="": progress.update(bar, advance=amount, note=note)
