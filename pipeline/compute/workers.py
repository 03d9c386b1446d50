"""Runs a stage's tasks over Dask worker processes of bounded memory, here or on a cluster, with a progress bar."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

from pipeline.compute.machine import cores, device_of, free_bytes
from pipeline.compute.progress import console
from pipeline.params import ComputeParams

Task = TypeVar("Task")
Result = TypeVar("Result")


class TasksLostError(RuntimeError):
    """Each worker that took these tasks died: by what it met, by the memory limit, or along with a neighbour."""

    def __init__(self, tasks: list[Any]) -> None:
        super().__init__(
            f"{len(tasks)} tasks are not done: every worker process that took them died, most likely for want of "
            "memory; give --workers a smaller number"
        )
        self.tasks = tasks


def one_ahead(items: Iterator[Task]) -> Iterator[Task]:
    """Yields the items, each made in another thread while the caller works on the one before."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def worker_count(compute: ComputeParams, n_tasks: int) -> int:
    """How many workers share `n_tasks` tasks."""
    if compute.scheduler:
        with _client(compute, n_tasks) as client:
            return max(1, min(len(client.nthreads()), n_tasks))
    return max(1, min(compute.workers or cores(), n_tasks))


def threads_per_worker(compute: ComputeParams, n_tasks: int) -> int:
    """Cores that each worker has for itself; on a cluster 1, since a machine's workers do not know of each other."""
    return 1 if compute.scheduler else max(1, cores() // worker_count(compute, n_tasks))


def memory_per_worker(compute: ComputeParams, n_tasks: int) -> int:
    """Bytes that each worker may fill: of the GPU where it computes on one, else of the machine it runs on."""
    if not compute.scheduler:
        return free_bytes(compute) // worker_count(compute, n_tasks)
    with _client(compute, n_tasks) as client:
        free: dict[str, int] = client.run(free_bytes, compute)
    hosts = Counter(address.rpartition(":")[0] for address in free)
    on_gpu = device_of(compute) == "cuda"  # a cluster gives each worker its own
    return min(size // (1 if on_gpu else hosts[address.rpartition(":")[0]]) for address, size in free.items())


_teller: ContextVar[Callable[[float], None]] = ContextVar("teller", default=lambda share: None)


def tell(share: float) -> None:
    """Says, from within a task, how much of it is done, 0 to 1."""
    _teller.get()(share)


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    compute: ComputeParams,
    heard: Callable[[Task, float], None] = lambda task, share: None,
) -> Iterator[tuple[Task, Result]]:
    """Yields (task, result) as tasks finish; a task's exception ends the run. heard: called with what tasks tell.

    A task runs again when its worker dies. Those whose workers died more often than Dask's `allowed-failures` are
    named by a TasksLostError, after all others are done.
    """
    if not tasks:
        return
    if compute.workers == 1 and not compute.scheduler:
        for task in tasks:
            yield task, _telling(partial(heard, task), function, task)
        return
    from distributed import KilledWorker, as_completed

    lost, topic = [], f"bmnas/{uuid4().hex}"
    with _client(compute, len(tasks)) as client:
        client.subscribe_topic(topic, lambda event: heard(tasks[event[1][0]], event[1][1]))
        works = client.map(partial(_in_worker, topic, function), range(len(tasks)), tasks, pure=False)
        futures = dict(zip(works, tasks, strict=True))
        for future in as_completed(works):
            task = futures.pop(future)
            try:
                yield task, future.result()
            except KilledWorker:
                lost.append(task)
            future.release()
    if lost:
        raise TasksLostError(lost)


def _in_worker(topic: str, function: Callable[[Task], Result], number: int, task: Task) -> Result:
    from distributed import get_worker

    worker = get_worker()
    return _telling(lambda share: worker.log_event(topic, (number, share)), function, task)


def _telling(teller: Callable[[float], None], function: Callable[[Task], Result], task: Task) -> Result:
    token = _teller.set(teller)
    try:
        return function(task)
    finally:
        _teller.reset(token)


# glibc's allocator, else, gives a large block back as soon as it is free, and the kernel clears its pages anew for the
# next one: a quarter of the time of EfficientNet-Lite0's forward pass.
KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",  # workers compute in a thread, and arenas of threads cannot keep large blocks
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}


@contextmanager
def _client(compute: ComputeParams, n_tasks: int) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    if compute.scheduler:
        with Client(compute.scheduler) as client:
            console.print(f"[dim]workers: those of {compute.scheduler}; dashboard {client.dashboard_link}")
            yield client
        return
    workers = worker_count(compute, n_tasks)
    threads = str(threads_per_worker(compute, n_tasks))
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    environment |= KEEP_FREED_MEMORY
    settings = {
        # Set before a worker imports torch: later is too late. Workers are spawned, never forked.
        "distributed.nanny.pre-spawn-environ": environment,
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.scheduler.allowed-failures": 1,
        "distributed.worker.profile.enabled": False,  # it looks at every thread's stack 100 times a second
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
