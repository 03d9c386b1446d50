"""Jobs: the files that were asked for, their queue, the workers that take them, results for as long as they last."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from pipeline.compute.machine import cores
from pipeline.detector.prediction import Prediction, unscored
from pipeline.serve.metrics import Metrics
from pipeline.serve.pool import Worker, WorkerLostError
from pipeline.serve.settings import ServeError, Settings

State = Literal["queued", "running", "done", "failed"]
MOST_KEPT = 1000
"""Results. Beyond, the oldest go: memory is bounded, however many clips an hour brings."""
_LONGEST_PAUSE_S = 60.0
_log = logging.getLogger("bmnas.serve")


@dataclass(eq=False)
class Job:
    """One file that was asked for. Whoever knows its name, which nobody can guess, can ask for its result."""

    file: Path
    name: str
    """What its result calls it: no name of an upload."""
    ours: bool
    """An upload, which is deleted as soon as there is an answer."""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    state: State = "queued"
    share: float | None = None
    """Of it that is done, where that is known."""
    result: Prediction | None = None
    change: asyncio.Event = field(default_factory=asyncio.Event)
    """Is set, and replaced by another, when something is different: who looks at the job takes it before looking."""

    @property
    def over(self) -> bool:
        """Whether there is a result."""
        return self.result is not None

    def tell(self) -> None:
        """Wakes whoever waits for a change."""
        self.change.set()
        self.change = asyncio.Event()


class Jobs:
    """The queue and its workers. Used by one event loop."""

    def __init__(self, settings: Settings, command: Sequence[str], metrics: Metrics) -> None:
        """command: starts a worker."""
        self._settings, self._metrics = settings, metrics
        threads = max(1, cores() // settings.workers)
        self.workers = [
            Worker(command, settings.spool / f"worker-{i}", threads=threads) for i in range(settings.workers)
        ]
        self._jobs: dict[str, Job] = {}
        self._waiting: asyncio.Queue[Job] = asyncio.Queue()
        self._held = 0
        self._loops: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Starts the workers; raises ServeError where they cannot load the detector."""
        try:
            async with asyncio.TaskGroup() as starting:
                for worker in self.workers:
                    starting.create_task(worker.start())
        except* ServeError as errors:
            await self._end_workers()
            raise errors.exceptions[0] from None
        self._metrics.watch(self)
        self._loops = [asyncio.create_task(self._work(worker)) for worker in self.workers]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends the workers, whatever they do, and deletes the uploads."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self._end_workers()

    @property
    def held(self) -> int:
        """Files on their way here, waiting and worked on."""
        return self._held

    @property
    def ready(self) -> int:
        """Workers that can be told a file."""
        return sum(worker.ready for worker in self.workers)

    @contextlib.contextmanager
    def place(self) -> Iterator[Callable[[Job], None]]:
        """A place in the queue, for who has a file or is about to get one; raises asyncio.QueueFull.

        Yields what takes the job on. The place is given back where the block ends without one, else with the job.
        """
        if self._held >= self._settings.queue + len(self.workers):
            raise asyncio.QueueFull
        self._held += 1
        taken = False

        def take(job: Job) -> None:
            nonlocal taken
            taken = True
            self._jobs[job.id] = job
            self._waiting.put_nowait(job)

        try:
            yield take
        finally:
            self._held -= not taken

    def find(self, name: str) -> Job | None:
        """The job of that name; None where there is none, or its result is no longer kept."""
        return self._jobs.get(name)

    def ahead(self, job: Job) -> int:
        """How many wait before it."""
        queued = [each for each in self._jobs.values() if each.state == "queued"]
        return queued.index(job) if job in queued else 0

    async def _work(self, worker: Worker) -> None:
        while True:
            job = await self._next(worker)
            try:
                await self._ready(worker)
                await self._score(worker, job)
            finally:
                self._held -= 1
                if job.ours:
                    job.file.unlink(missing_ok=True)

    async def _next(self, worker: Worker) -> Job:
        """The next job, when the worker can take it: one that dies while it waits is replaced."""
        while True:
            await self._ready(worker)
            job, gone = asyncio.create_task(self._waiting.get()), asyncio.create_task(worker.gone())
            try:
                await asyncio.wait({job, gone}, return_when=asyncio.FIRST_COMPLETED)
                if job.done():
                    return job.result()
            finally:
                job.cancel()
                gone.cancel()

    async def _score(self, worker: Worker, job: Job) -> None:
        def heard(share: float) -> None:
            job.share = share
            job.tell()

        job.state = "running"
        job.tell()
        start = time.monotonic()
        try:
            found = await worker.score(job.file, job.name, limit_s=self._settings.time_limit_s, heard=heard)
            state: State = "done"
        except WorkerLostError as error:
            _log.warning("a worker was lost: %s", error)
            found, state = unscored(job.name, str(error)), "failed"
        if job.ours:
            job.file.unlink(missing_ok=True)  # it is gone when the answer is there
        job.state, job.share, job.result = state, 1.0, found
        self._metrics.done(found, state, time.monotonic() - start)
        job.tell()
        self._keep(job)

    def _keep(self, job: Job) -> None:
        asyncio.get_running_loop().call_later(self._settings.keep_s, self._jobs.pop, job.id, None)
        over = [each.id for each in self._jobs.values() if each.over]
        for name in over[: max(0, len(over) - MOST_KEPT)]:
            del self._jobs[name]

    async def _ready(self, worker: Worker) -> None:
        """Starts it where it is gone, as often as it takes; files wait meanwhile."""
        pause_s = 1.0
        while not worker.ready:
            self._metrics.restarts.inc()
            try:
                await worker.kill()
                await worker.start()
            except (OSError, ServeError) as error:
                _log.error("%s; the next try is in %g s", error, pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _end_workers(self) -> None:
        await asyncio.gather(*(worker.kill() for worker in self.workers))
        for job in self._jobs.values():
            if job.ours:
                job.file.unlink(missing_ok=True)
