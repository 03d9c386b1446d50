"""Tasks that are done where the command's files are not: what they need goes with them, what they make comes back.

On the command's side `Courier`; within a task `here`, `fetched`, `is_made` and `hand_over`, which take paths as the
command knows them. Where workers see the same folders, they change nothing.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import uuid4

from pipeline.compute.cluster import SchedulerError, reaching
from pipeline.compute.store import FULL, THREADS, Content, Store, StoreError
from pipeline.params import ComputeParams

Task = TypeVar("Task")
Result = TypeVar("Result")
Needs = Mapping[Path, Callable[[], FileIO]]
"""{file that a task reads, an absolute path: what opens it on the command's machine}"""

SCRATCH_BYTES = 8 << 30
"""A worker keeps at most so much of what it has fetched, beside what its tasks are reading."""


def here(path: Path) -> Path:
    """Where a file or folder lies on the machine that computes; a task writes nowhere else."""
    errand = _errand.get()
    return errand.here(path) if errand else path


def fetched(path: Path) -> Path:
    """The same of what a task needs, a file or all that is in a folder, once it is there.

    Raises StoreError where it cannot be had, and whatever opening it raised on the command's machine.
    """
    errand = _errand.get()
    return errand.fetched(path) if errand else path


def is_made(file: Path) -> bool:
    """Whether a task has made this file before."""
    errand = _errand.get()
    return errand.is_made(file) if errand else file.exists()


def hand_over(file: Path) -> None:
    """Says that a task has made this file, and that it is whole; raises StoreError where the command cannot get it."""
    if errand := _errand.get():
        errand.hand_over(file)


def writing() -> AbstractContextManager[None]:
    """Around what writes `here`: raises StoreError where a disk of the worker's own is full."""
    errand = _errand.get()
    return _room(errand.scratch.folder, "what it makes") if errand else nullcontext()


@contextmanager
def _room(folder: Path, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not any(isinstance(each, OSError) and each.errno in FULL for each in (error, error.__cause__)):
            raise
        raise StoreError(
            f"{folder} has no room for {what}: start `dask worker` with --local-directory FOLDER, one that has"
        ) from None


def take_over(folder: Path, compute: ComputeParams) -> None:
    """Takes into a folder what a cluster's tasks had made for it when an earlier command was killed."""
    if compute.scheduler and compute.store:
        Store(compute.store).take_all(folder)


@dataclass(frozen=True)
class Parcel(Generic[Task]):
    """A task and its files' content, on the way to a worker."""

    task: Task
    url: str
    command: str
    """Names the command: two of them may call different files the same."""
    files: Mapping[Path, Content | Exception]
    """What stands in a file's place is raised where the task asks for it."""


class Courier:
    """Takes the tasks of one command to workers, and what they made back."""

    def __init__(self, store: Store, pool: Executor) -> None:
        self._store, self._pool = store, pool
        self._command = uuid4().hex

    def pack(self, task: Task, needs: Needs) -> Parcel[Task]:
        """The task, ready to be sent: what it needs is in the store."""
        files = dict(zip(needs, self._pool.map(self._put, needs.values()), strict=True))
        return Parcel(task, self._store.url, self._command, files)

    def _put(self, opening: Callable[[], FileIO]) -> Content | Exception:
        try:
            with opening() as file:
                return self._store.put(file)
        except StoreError:
            raise
        except Exception as error:  # one bad file never stops a run
            return error

    def take(self, made: Iterable[Path]) -> None:
        """Brings what a task has made to its place."""
        list(self._pool.map(self._store.take, made))


@contextmanager
def courier(client: Any, compute: ComputeParams) -> Iterator[Courier]:
    """Raises StoreError unless this process and all workers that there are may use the store."""
    store = Store(compute.store)
    store.check()
    with reaching(compute.scheduler):
        said: dict[str, str | Exception] = client.run(_fault, compute.store, on_error="return")
    for worker, fault in said.items():
        if isinstance(fault, Exception) and not isinstance(fault, OSError):  # else it is gone: others do its tasks
            raise SchedulerError(
                f"worker {worker} has other code than this command ({fault}): start it anew, with the same bmnas"
            )
        if fault and isinstance(fault, str):
            raise StoreError(f"worker {worker}: {fault}")
    with ThreadPoolExecutor(THREADS) as pool:
        yield Courier(store, pool)


def _fault(url: str) -> str:
    try:
        _store(url).check()
    except StoreError as error:
        return str(error)
    return ""


@cache
def _store(url: str) -> Store:
    """The worker's."""
    return Store(url)


def unpacked(function: Callable[[Task], Result], parcel: Parcel[Task]) -> tuple[Result, list[Path]]:
    """In a worker: what the task gives, and the files that it has made, as the command knows them."""
    from distributed import get_worker

    errand = _Errand(parcel, _scratch(get_worker().local_directory))
    token = _errand.set(errand)
    try:
        return function(parcel.task), errand.made
    except StoreError as error:
        error.__cause__ = error.__context__ = None  # of whatever client the store has, which may be no pickle
        raise
    finally:
        _errand.reset(token)
        errand.scratch.let_go(errand.reads)


class _Errand:
    """One task in a worker. Its files' paths are those on the command's machine, below a folder of the worker's."""

    def __init__(self, parcel: Parcel[Any], scratch: _Scratch) -> None:
        self.scratch, self.made, self.reads = scratch, list[Path](), list[Path]()
        self._parcel, self._store = parcel, _store(parcel.url)

    def here(self, path: Path) -> Path:
        """As the function of that name."""
        if not path.is_absolute() or ".." in path.parts:
            raise StoreError(f"{path} is no place in a worker's folder")
        return self.scratch.folder / self._parcel.command / path.relative_to(path.anchor)

    def fetched(self, path: Path) -> Path:
        """As the function of that name."""
        for file, content in self._parcel.files.items():
            if file == path or path in file.parents:
                if isinstance(content, Exception):
                    raise content
                self.scratch.hold(self.here(file), content, self._store)
                self.reads.append(self.here(file))
        return self.here(path)

    def is_made(self, file: Path) -> bool:
        """As the function of that name; the command gets it by this task, too."""
        found = self._store.is_left(file)
        if found:
            self.made.append(file)
        return found

    def hand_over(self, file: Path) -> None:
        """As the function of that name."""
        made = self.here(file)
        try:
            self._store.leave(file, made)
        finally:
            made.unlink()
        self.made.append(file)


_errand: ContextVar[_Errand | None] = ContextVar("errand", default=None)


@cache
def _scratch(folder: str) -> _Scratch:
    """The worker's, in its --local-directory, which Dask empties."""
    return _Scratch(Path(tempfile.mkdtemp(prefix="bmnas-", dir=folder)))


class _Scratch:
    """What a worker has fetched: of more than it may keep, what was asked for last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[Path, Content] = {}
        """Asked for last: last."""
        self._reading: Counter[Path] = Counter()
        self._lock = threading.Lock()

    def hold(self, file: Path, content: Content, store: Store) -> None:
        """Has the file there until it is let go; raises StoreError where it cannot be had."""
        with self._lock:
            if self._held.pop(file, None) != content:
                self._make_room(content.size)
                with _room(self.folder, f"{content.size} bytes from the store {store.url}"):
                    store.fetch(content, file)
            self._held[file] = content
            self._reading[file] += 1

    def _make_room(self, size: int) -> None:
        for file in [file for file in self._held if not self._reading[file]]:
            kept = sum(content.size for content in self._held.values())
            if kept + size <= SCRATCH_BYTES and shutil.disk_usage(self.folder).free >= size:
                break
            del self._held[file]
            file.unlink(missing_ok=True)

    def let_go(self, files: Iterable[Path]) -> None:
        """The files may make room for others."""
        with self._lock:
            self._reading.subtract(files)
            self._reading = +self._reading
