"""Runs a stage's tasks over worker processes of bounded memory, here or on a cluster."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar
from uuid import uuid4

from pipeline.compute.cluster import SchedulerError, cluster_client, gone, local_client, reaching, wait_for_worker
from pipeline.compute.errand import Courier, Needs, courier, unpacked
from pipeline.compute.machine import cores, device_of, free_bytes, gpus
from pipeline.params import ComputeParams

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 4
"""So many tasks per worker are under way: enough that none waits for its next one, few enough for any scheduler."""
POLL_S = 0.01
"""So often it is looked whether a task is done; the shortest take several times as long."""
RESULT_S = 5.0
"""So long a result may be on its way before it is looked whether there still are workers."""


class TasksLostError(RuntimeError):
    """Each worker that took these tasks died: by what it met, by the memory limit, or along with a neighbour."""

    def __init__(self, tasks: list[Any]) -> None:
        super().__init__(
            f"{len(tasks)} tasks are not done: every worker process that took them died, most likely for want of "
            "memory; give --workers a smaller number"
        )
        self.tasks = tasks


@contextmanager
def session(compute: ComputeParams) -> Iterator[None]:
    """Inside, whatever runs tasks shares one set of workers. They start with the first tasks and end with the block."""
    with _session(compute) as found:
        token = _open.set(found)
        try:
            yield
        finally:
            _open.reset(token)


def worker_count(compute: ComputeParams, n_tasks: int) -> int:
    """How many of `n_tasks` tasks run at once."""
    with _session(compute) as found:
        return found.count(n_tasks)


def threads_per_worker(compute: ComputeParams, n_tasks: int) -> int:
    """Cores that each task has for itself; on a cluster 1, since a machine's workers do not know of each other."""
    return 1 if compute.scheduler else max(1, cores() // worker_count(compute, n_tasks))


def memory_per_worker(compute: ComputeParams, n_tasks: int) -> int:
    """Bytes that each task may fill: of the GPU where it computes on one, else of the machine it runs on."""
    with _session(compute) as found:
        return found.memory(n_tasks)


_teller: ContextVar[Callable[[float], None]] = ContextVar("teller", default=lambda share: None)


def tell(share: float) -> None:
    """Says, from within a task, how much of it is done, 0 to 1."""
    _teller.get()(share)


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    compute: ComputeParams,
    heard: Callable[[Task, float], None] = lambda task, share: None,
    *,
    most: int | None = None,
    needs: Callable[[Task], Needs] | None = None,
) -> Iterator[tuple[Task, Result]]:
    """Yields (task, result) as tasks finish; a task's exception ends the run.

    tasks: each is made when it is about to be sent. most: so many there are at most, where `tasks` has no length.
    heard: called with what tasks tell, never after a task's result. needs: the files that a task reads, where it can do
    without the folders of this machine (`pipeline.compute.errand`); what it has made is here when its result is.

    A task runs again when its worker dies. Those whose workers died more often than Dask's `allowed-failures` are
    named by a TasksLostError, after all others are done. Raises SchedulerError when a cluster cannot be used.
    """
    if most is None:
        assert isinstance(tasks, Sized)  # noqa: S101 - the caller's mistake
        most = len(tasks)
    if compute.workers == 1 and not compute.scheduler:
        for task in tasks:
            yield task, _telling(partial(heard, task), function, task)
    elif compute.scheduler and compute.store and needs is None:
        raise SchedulerError(
            f"by the store {compute.store} workers can do spectrograms, faces and features, not this: leave out "
            "compute.store where all of them see this machine's folders, else compute.scheduler (--scheduler)"
        )
    elif most:
        with _session(compute) as found:
            yield from found.run(function, tasks, heard, most, needs)


_open: ContextVar[_Session | None] = ContextVar("session", default=None)


@contextmanager
def _session(compute: ComputeParams) -> Iterator[_Session]:
    """The one that is open, or one for this block."""
    found = _open.get()
    if found and found.compute == compute:
        yield found
        return
    with ExitStack() as stack:
        yield _Session(compute, stack)


class _Session:
    """Worker processes on this machine, or those of a cluster; none until they are needed."""

    def __init__(self, compute: ComputeParams, stack: ExitStack) -> None:
        """stack: what ends the workers."""
        self.compute = compute
        self._stack = stack
        self._client: Any = None
        self._courier: Courier | None = None
        self._places: dict[str, int] = {}
        self._counted_s = 0.0

    def count(self, n_tasks: int) -> int:
        """How many of `n_tasks` tasks run at once."""
        most = sum(self.places().values()) if self.compute.scheduler else self.compute.workers or cores()
        return max(1, min(most, n_tasks))

    def places(self) -> dict[str, int]:
        """{address of a worker: tasks that it runs at once}; of a cluster no older than a second."""
        if self.compute.scheduler and monotonic() > self._counted_s + 1:
            client = self.connected(1)
            with reaching(self.compute.scheduler):
                self._places = dict(client.nthreads())
            self._counted_s = monotonic()
        return self._places

    def memory(self, n_tasks: int) -> int:
        """Bytes that each task may fill."""
        if not self.compute.scheduler:
            return free_bytes(self.compute) // -(-self.count(n_tasks) // max(1, len(gpus(self.compute))))
        client = self.connected(1)
        with reaching(self.compute.scheduler):
            # As tasks: each is sent to another worker where its own has gone meanwhile.
            options = {"allow_other_workers": True, "pure": False}
            asked = [client.submit(_free, self.compute, workers=[each], **options) for each in self.places()]
            found: dict[str, tuple[str, int]] = dict(client.gather(asked))
        places = {address: self.places().get(address, 1) for address in found}
        of_host: Counter[str] = Counter()
        for address, count in places.items():
            of_host[_host(address)] += count
        # A cluster gives each worker process a GPU of its own; the machine's memory they share.
        return min(
            size // (places[address] if device == "cuda" else of_host[_host(address)])
            for address, (device, size) in found.items()
        )

    def connected(self, n_tasks: int) -> Any:
        """Dask's client, with workers for so many tasks: more are started anew, never fewer."""
        if self.compute.scheduler:
            if self._client is None:
                self._client = self._stack.enter_context(cluster_client(self.compute.scheduler))
            wait_for_worker(self._client, self.compute.scheduler)
            if self.compute.store and self._courier is None:  # which tries the store on each worker
                self._courier = self._stack.enter_context(courier(self._client, self.compute))
        elif len(self._places) < (wanted := self.count(n_tasks)):
            self._stack.close()
            self._client = self._stack.enter_context(
                local_client(wanted, max(1, cores() // wanted), gpus(self.compute))
            )
            self._places = dict(self._client.nthreads())
        return self._client

    def run(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        heard: Callable[[Task, float], None],
        most: int,
        needs: Callable[[Task], Needs] | None,
    ) -> Iterator[tuple[Task, Result]]:
        """As run_tasks."""
        from distributed import KilledWorker, as_completed

        client, topic, lost = self.connected(most), f"bmnas/{uuid4().hex}", []
        numbered, sent, lock = enumerate(tasks), dict[str, Task](), threading.Lock()
        running = as_completed(loop=client.loop)
        carried = partial(unpacked, function) if self._courier else function
        work = partial(_in_worker, topic, str(Path.cwd()), carried)

        def hear(event: tuple[float, tuple[str, float]]) -> None:
            name, share = event[1]
            with lock:  # it is Dask's thread that hears
                if name in sent:
                    heard(sent[name], share)

        def send() -> None:
            places = max(1, sum(self.places().values()))
            room = AHEAD * places - len(sent)
            if self._courier:
                room = min(room, places)  # what they need takes its time: by then, workers have something to do
            coming = {f"{topic}-{number}": task for number, task in islice(numbered, max(0, room))}
            if coming:
                goods = [self._packed(task, needs) for task in coming.values()]
                sent.update(coming)
                running.update(client.map(work, list(coming), goods, key=list(coming), pure=False))

        client.subscribe_topic(topic, hear)
        try:
            send()
            while sent:
                finished = self._finished(running)
                with lock:
                    done = [(sent.pop(future.key), future) for future in finished]
                if any(future.cancelled() for future in finished):
                    raise gone(self.compute.scheduler, "the connection to it was lost")
                send()  # first: what is done with a result may take its time
                for task, future in done:
                    try:
                        result = self._result(future)
                    except KilledWorker:
                        lost.append(task)
                    else:
                        yield task, self._delivered(result)
        finally:
            with suppress(OSError, CancelledError):  # the scheduler may be gone
                client.cancel(list(running.futures))
                client.unsubscribe_topic(topic)
        if lost:
            raise TasksLostError(lost)

    def _finished(self, running: Any) -> list[Any]:
        """What is done, as soon as something is; looks meanwhile whether a cluster still has workers."""
        while not (finished := running.next_batch(block=False)):
            sleep(POLL_S)
            self.places()
        return list(finished)

    def _result(self, future: Any) -> Any:
        """What a task gave, fetched from its worker; where that is gone meanwhile, others do the task again."""
        while future.status != "error":  # what a task raised is here already
            with reaching(self.compute.scheduler), suppress(TimeoutError):
                return future.result(timeout=RESULT_S)
            self.places()
        return future.result()

    def _packed(self, task: Any, needs: Callable[[Any], Needs] | None) -> Any:
        """What is sent to a worker."""
        return self._courier.pack(task, needs(task)) if self._courier and needs else task

    def _delivered(self, result: Any) -> Any:
        """A task's result, what it has made being here."""
        if self._courier:
            result, made = result
            self._courier.take(made)
        return result


def _free(compute: ComputeParams) -> tuple[str, tuple[str, int]]:
    """(the worker's address, (its device, bytes that are free there))."""
    from distributed import get_worker

    return get_worker().address, (device_of(compute), free_bytes(compute))


def _host(address: str) -> str:
    return address.rpartition(":")[0]


def _in_worker(topic: str, folder: str, function: Callable[[Task], Result], name: str, task: Task) -> Result:
    """folder: that of the command, where modules of one's own lie; the worker may have started in another one."""
    from distributed import get_worker

    if folder not in sys.path:
        sys.path.append(folder)
    worker = get_worker()
    return _telling(lambda share: worker.log_event(topic, (name, share)), function, task)


def _telling(teller: Callable[[float], None], function: Callable[[Task], Result], task: Task) -> Result:
    token = _teller.set(teller)
    try:
        return function(task)
    finally:
        _teller.reset(token)
