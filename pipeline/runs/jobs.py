"""Many runs over one cache: in batches that fit memory, on workers, kept batch by batch.

`bmnas oracle` and `bmnas sweep` are built on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import torch

from cache_schemas.files import digest
from cache_schemas.runs import FinishedRuns, RunRow
from nas.data import Dataset, prepare
from nas.memory import RunMemory
from pipeline.compute.machine import device_of
from pipeline.compute.progress import console, progress_bar
from pipeline.compute.workers import memory_per_worker, run_tasks, tell, worker_count
from pipeline.params import ComputeParams
from pipeline.runs.cache import Source

MOST_RUNS = {"cpu": 32, "cuda": 512}
"""More runs a batch gain nothing: a core is busy with fewer, and a batch is what a kill loses."""
MEMORY_SHARE = 0.6
"""Of a worker's free memory: the rest is for allocators, Python and what else grows."""


class BatchError(ValueError):
    """Runs cannot be done as asked; the message says what to change."""


class Batch(Protocol):
    """Runs that are computed together."""

    @property
    def keys(self) -> Sequence[str]:
        """What names the runs."""


SomeBatch = TypeVar("SomeBatch", bound=Batch)
Row = TypeVar("Row", bound=RunRow)
Item = TypeVar("Item")
Task = TypeVar("Task")
Result = TypeVar("Result")


def run_batches(
    title: str,
    batches: Sequence[SomeBatch],
    function: Callable[[SomeBatch], Sequence[Row]],
    finished: FinishedRuns[Row],
    compute: ComputeParams,
    *,
    kept: int,
) -> dict[str, Row]:
    """{key: row} of all finished runs, those of `batches` now among them; kept: runs that were not asked for again."""
    todo = sum(len(batch.keys) for batch in batches)
    console.print(f"{title}: {kept + todo} runs: {kept} already done, {todo} to do")
    if batches:
        shown = run_shown(
            title, function, batches, compute, unit="runs", units=lambda batch: len(batch.keys), done=kept
        )
        for batch, rows in shown:
            finished.add(dict(zip(batch.keys, rows, strict=True)))
    return finished.read()


def run_shown(
    title: str,
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    compute: ComputeParams,
    *,
    unit: str,
    units: Callable[[Task], int],
    done: int = 0,
) -> Iterator[tuple[Task, Result]]:
    """As run_tasks, each task in one thread, with a progress bar that moves whenever a task tells how far it is.

    units: how many a task holds.
    """
    with progress_bar(title, total=done + sum(map(units, tasks)), unit=unit, done=done) as advance:
        shown = {id(task): 0.0 for task in tasks}

        def heard(task: Task, share: float) -> None:
            amount = units(task) * math.floor(share * 1024) / 1024  # sums of such numbers are exact
            if amount > shown[id(task)]:  # less: its worker died, and another one does it again
                advance(amount - shown[id(task)])
                shown[id(task)] = amount

        for task, result in run_tasks(partial(_in_one_thread, function), tasks, compute, heard):
            heard(task, 1.0)
            yield task, result


def _in_one_thread(function: Callable[[Task], Result], task: Task) -> Result:
    """In steps as small as a search's, two threads wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function(task)
    finally:
        torch.set_num_threads(before)


def tell_epoch(call: Mapping[str, Any]) -> None:
    """What nas calls after every epoch, for the progress bar."""
    tell(call["epoch"] / call["epochs"])


def batch_size(
    title: str, memory: Callable[[Dataset], RunMemory], runs: int, source: Source, finished: FinishedRuns[Any]
) -> int:
    """How many of `runs` runs a batch holds: what fits a worker's memory, at most MOST_RUNS, all workers busy."""
    compute = source.params.compute
    windows = source.windows()
    data = prepare(windows.features, windows.labels, windows.split, None, reads="all")
    taken = memory(data)
    free = memory_per_worker(compute, runs)
    fitting = fitting_runs(title, taken, data, free)
    size = even_size(runs, min(fitting, most_runs(compute)), worker_count(compute, runs))
    size = finished.batch_runs(digest(title, source.identity(), runs), size)
    console.print(
        f"[dim]{title}: {runs} runs of {_megabytes(taken.bytes_per_run)} each; {fitting} fit {MEMORY_SHARE:.0%} of the "
        f"{_megabytes(free)} of a worker; batches of {size}"
    )
    return size


def most_runs(compute: ComputeParams) -> int:
    """How many runs a batch should hold at most, whatever the memory."""
    return MOST_RUNS[torch.device(device_of(compute)).type]


def even_size(runs: int, most: int, workers: int) -> int:
    """How many of `runs` runs a batch holds, at most `most`, so that no worker waits for another's last batch."""
    rounds = -(-runs // (workers * most))
    return -(-runs // (workers * rounds))


def parts_of(items: Sequence[Item], size: int) -> list[tuple[Item, ...]]:
    """The items in order, in parts of `size`; the last one may be smaller."""
    return [tuple(items[i : i + size]) for i in range(0, len(items), size)]


def fitting_runs(title: str, taken: RunMemory, data: Dataset, free_bytes: int) -> int:
    """How many runs fit the free memory; raises BatchError when not even one does."""
    usable = int(MEMORY_SHARE * free_bytes)
    # Every call of nas holds its own copy of the cache.
    fitting = taken.fitting(usable - sum(x.numel() * x.element_size() for x in data.features.values()))
    if fitting == 0:
        raise BatchError(
            f"{title}: one run takes {_megabytes(taken.base_bytes + taken.bytes_per_run)} beside the cache, and may "
            f"use {_megabytes(usable)}: use fewer --workers, smaller channels or batch_size, or free memory"
        )
    return fitting


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"
