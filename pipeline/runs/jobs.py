"""Many runs over one cache: in batches that fit memory, on workers, kept batch by batch.

Everything that searches or trains is such a job: the stages search and retrain, the sweep, the oracle and its
certificates, baselines.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from rich.markup import escape

import nas
from cache_schemas.files import digest
from cache_schemas.run import Failure
from cache_schemas.runs import FinishedRuns, Row, RunRow
from nas.data import Dataset, prepare
from nas.memory import RunMemory
from pipeline.compute.machine import device_of, of_runs
from pipeline.compute.progress import console, progress_bar
from pipeline.compute.workers import memory_per_worker, run_tasks, session, tell, worker_count
from pipeline.params import ComputeParams
from pipeline.runs.cache import Source

MOST_RUNS = {"cpu": 32, "cuda": 512}
"""More runs a batch gain nothing: a core is busy with fewer, and a batch is what a kill loses."""
FEW_RUNS = 4
"""So few fit a worker that fits one; to measure what they take would double the time until they begin."""
MEMORY_SHARE = 0.6
"""Of a worker's free memory: the rest is for allocators, Python and what else grows."""

Run = TypeVar("Run", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


class JobError(ValueError):
    """Runs cannot be done as asked, or none of them has a result; the message says why and what to change."""


@dataclass(frozen=True)
class Batch(Generic[Run]):
    """Runs that are computed together, and their keys."""

    keys: tuple[str, ...]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Job(Generic[Run, Row]):
    """Runs of one kind, and how they are computed.

    what: all that a run's result depends on beside the cache, as JSON can write it. compute: gives one row per run of a
    batch, in a worker. group: what the runs of a batch have in common. memory: what runs of a group take; None where
    nobody knows.
    """

    title: str
    source: Source
    runs: Sequence[Run]
    what: Callable[[Run], Any]
    compute: Callable[[Source, Batch[Run]], Sequence[Row]]
    group: Callable[[Run], Hashable]
    finished: FinishedRuns[Row]
    memory: Callable[[Dataset, Sequence[Run]], RunMemory] | None = None


def do(job: Job[Run, Row]) -> dict[Run, Row]:
    """{run: row}; runs that are finished are not done again, and one that fails has a row that says why."""
    keys = {run: digest(*job.source.naming, job.what(run)) for run in job.runs}
    done = job.finished.read(keys.values())
    kept, todo = len(done), len(keys) - len(done)
    console.print(f"{job.title}: {len(keys)} runs: {kept} already done, {todo} to do")
    if todo:
        with session(of_runs(job.source.params.compute)):
            batches = _batches(job, keys, done)
            with progress_bar(job.title, total=len(keys), unit="runs", done=kept) as advance:
                for batch, rows in _computed(job, batches, advance):
                    of_batch = dict(zip(batch.keys, rows, strict=True))
                    job.finished.add(of_batch)
                    done |= of_batch
    failed = [row.failed for row in done.values() if row.failed]
    if failed:
        console.print(
            f"[yellow]{job.title}: {len(failed)} of {len(done)} runs failed; the first one: {escape(failed[0])}",
            soft_wrap=True,
        )
    return {run: done[key] for run, key in keys.items()}


def _batches(job: Job[Run, Row], keys: Mapping[Run, str], done: Mapping[str, Row]) -> list[Batch[Run]]:
    """What is to be done, batches of one group after the other."""
    groups: dict[Hashable, list[Run]] = {}
    for run in keys:
        groups.setdefault(job.group(run), []).append(run)
    compute = of_runs(job.source.params.compute)
    most, workers = MOST_RUNS[_device(compute)], worker_count(compute, len(keys))
    batches = []
    for group in groups.values():
        pending = [run for run in group if keys[run] not in done]
        size = even_size(len(keys), most, workers)
        if job.memory is not None and min(size, len(pending)) > FEW_RUNS:
            size = even_size(len(keys), min(most, _fitting(job, group, job.memory)), workers)
        batches += [Batch(tuple(keys[run] for run in part), part) for part in parts_of(pending, size)]
    return batches


def _fitting(job: Job[Run, Row], group: Sequence[Run], memory: Callable[[Dataset, Sequence[Run]], RunMemory]) -> int:
    """How many runs of a group fit a worker; raises JobError when not even one does."""
    windows = job.source.windows()
    windows = windows.to_train_on(windows.features)
    data = prepare(windows.features, windows.labels, windows.split, None, reads="all")
    compute = of_runs(job.source.params.compute)
    taken, free_bytes = memory(data, group), memory_per_worker(compute, len(job.runs))
    usable = int(MEMORY_SHARE * free_bytes)
    # Every call of nas holds its own copy of the cache.
    fitting = taken.fitting(usable - sum(x.numel() * x.element_size() for x in data.features.values()))
    if fitting == 0:
        raise JobError(
            f"{job.title}: one run takes {_megabytes(taken.base_bytes + taken.bytes_per_run)} beside the cache, and "
            f"may use {_megabytes(usable)}: use fewer --workers, smaller channels or batch_size, or free memory"
        )
    console.print(
        f"[dim]{job.title}: {len(group)} runs of {_megabytes(taken.bytes_per_run)} each; {fitting} fit "
        f"{MEMORY_SHARE:.0%} of the {_megabytes(free_bytes)} of a worker"
    )
    return fitting


def _device(compute: ComputeParams) -> str:
    """What the workers compute on: a cluster's may have what this machine has not."""
    if not compute.scheduler:
        return device_of(compute)
    ((_, device),) = run_tasks(device_of, [compute], compute)
    return device


def even_size(runs: int, most: int, workers: int) -> int:
    """How many of `runs` runs a batch holds, at most `most`, so that no worker waits for another's last batch."""
    rounds = -(-runs // (workers * most))
    return -(-runs // (workers * rounds))


def parts_of(items: Sequence[Item], size: int) -> list[tuple[Item, ...]]:
    """The items in order, in parts of `size`; the last one may be smaller."""
    return [tuple(items[i : i + size]) for i in range(0, len(items), size)]


def _computed(
    job: Job[Run, Row], batches: Sequence[Batch[Run]], advance: Callable[[float], None]
) -> Iterator[tuple[Batch[Run], Sequence[Row]]]:
    """As run_tasks; advance: moves the progress bar by so many runs whenever a batch tells how far it is."""
    shown = {id(batch): 0.0 for batch in batches}

    def heard(batch: Batch[Run], share: float) -> None:
        amount = len(batch.keys) * math.floor(share * 1024) / 1024  # sums of such numbers are exact
        if amount > shown[id(batch)]:  # less: its worker died, and another one does it again
            advance(amount - shown[id(batch)])
            shown[id(batch)] = amount

    function = partial(_in_one_thread, job.compute, job.source)
    for batch, rows in run_tasks(function, batches, of_runs(job.source.params.compute), heard):
        heard(batch, 1.0)
        yield batch, rows


def _in_one_thread(
    function: Callable[[Source, Batch[Run]], Sequence[Row]], source: Source, batch: Batch[Run]
) -> list[Row]:
    """The batch's rows, with the time that each took: in steps as small as a search's, two threads wait for each other
    longer than they compute."""
    before, start = torch.get_num_threads(), time.perf_counter()
    torch.set_num_threads(1)
    try:
        rows = function(source, batch)
    finally:
        torch.set_num_threads(before)
    seconds = (time.perf_counter() - start) / len(rows)
    return [row.model_copy(update={"seconds": seconds}) for row in rows]


def failures(rows: Iterable[tuple[str, RunRow]]) -> list[Failure]:
    """Those of (name, row) that failed, as stored results tell them."""
    return [Failure(name=name, seed=row.seed, reason=row.failed) for name, row in rows if row.failed]


def tell_epoch(call: Mapping[str, Any]) -> None:
    """What nas calls after every epoch, for the progress bar."""
    tell(call["epoch"] / call["epochs"])


def all_results(call: Callable[[], Sequence[Result]]) -> Sequence[Result]:
    """One result per run of a call of nas, which raises where every one of them failed."""
    try:
        return call()
    except nas.RunError as error:
        return error.results


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"
