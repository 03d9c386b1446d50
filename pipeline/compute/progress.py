"""Progress bars, and the console that they share with messages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

console = Console(stderr=True)


class Advance(Protocol):
    """Moves a progress bar by so many units; `note` stands behind it until there is another."""

    def __call__(self, amount: float, note: str = "") -> None: ...


@contextmanager
def progress_bar(title: str, *, total: int, unit: str, done: int = 0, on: Console | None = None) -> Iterator[Advance]:
    """Yields a function that advances the bar by so many units; `done` of them took no time.

    on: the console that is printed to meanwhile, if it is not this module's. Standard output that goes to a file stays
    there.
    """
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),  # as wide as the others leave it: a line is one line
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
    )
    # Batches of minutes: the remaining time is told from all of them, not from those of the last 30 s.
    with Progress(
        *columns,
        console=on or console,
        speed_estimate_period=3600.0,
        expand=True,
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:
        bar = progress.add_task(title, total=total, completed=done, note="")
        yield lambda amount, note="": progress.update(bar, advance=amount, **({"note": note} if note else {}))
