"""Runs a stage's tasks over Dask worker processes of bounded memory, here or on a cluster, with a progress bar."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.params import ComputeParams

Task = TypeVar("Task")
Result = TypeVar("Result")

console = Console(stderr=True)


class Advance(Protocol):
    """Moves a progress bar by so many units; `note` stands behind it."""

    def __call__(self, amount: int, note: str = "") -> None: ...


@contextmanager
def progress_bar(title: str, *, total: int, unit: str) -> Iterator[Advance]:
    """Yields a function that advances the bar by so many units."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(title, total=total, note="")
        yield lambda amount, note="": progress.update(bar, advance=amount, note=note)


def device_of(compute: ComputeParams) -> str:
    """ "cpu" or "cuda"."""
    import torch

    if compute.device != "auto":
        return compute.device
    return "cuda" if torch.cuda.is_available() else "cpu"


class TasksLostError(RuntimeError):
    """Each worker that took these tasks died: by what it met, by the memory limit, or along with a neighbour."""

    def __init__(self, tasks: list[Any]) -> None:
        super().__init__(
            f"{len(tasks)} tasks are not done: every worker process that took them died, most likely for want of "
            "memory; give --workers a smaller number"
        )
        self.tasks = tasks


def run_tasks(
    function: Callable[[Task], Result], tasks: Sequence[Task], compute: ComputeParams
) -> Iterator[tuple[Task, Result]]:
    """Yields (task, result) as tasks finish; a task's exception ends the run.

    A task runs again when its worker dies. Those whose workers died more often than Dask's `allowed-failures` are
    named by a TasksLostError, after all others are done.
    """
    if not tasks:
        return
    if compute.workers == 1 and not compute.scheduler:
        for task in tasks:
            yield task, function(task)
        return
    from distributed import KilledWorker, as_completed

    lost = []
    with _client(compute, len(tasks)) as client:
        futures = {future: task for task, future in zip(tasks, client.map(function, tasks, pure=False), strict=True)}
        for future in as_completed(list(futures)):
            task = futures.pop(future)
            try:
                yield task, future.result()
            except KilledWorker:
                lost.append(task)
            future.release()
    if lost:
        raise TasksLostError(lost)


@contextmanager
def _client(compute: ComputeParams, n_tasks: int) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    if compute.scheduler:
        with Client(compute.scheduler) as client:
            console.print(f"[dim]workers: those of {compute.scheduler}; dashboard {client.dashboard_link}")
            yield client
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(compute.workers or cores, n_tasks)
    threads = str(max(1, cores // workers))
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    settings = {
        # Set before a worker imports torch: later is too late. Workers are spawned, never forked.
        "distributed.nanny.pre-spawn-environ": environment,
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.scheduler.allowed-failures": 1,
        # A worker that outgrows its share is replaced; one that only waits for memory could wait for ever.
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.95,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit="auto",  # an equal share of the machine's (or the container's) memory
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,  # what a task raises comes back with its result
        ) as cluster,
        Client(cluster) as client,
    ):
        share = min((spec["memory_limit"] for spec in client.scheduler_info()["workers"].values()), default=0)
        console.print(
            f"[dim]workers: {workers} processes of {threads} threads and {share / 2**30:.1f} GiB; "
            f"dashboard {cluster.dashboard_link}"
        )
        yield client
