"""Things at once: what is read next, and what is done with what was read before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

Item = TypeVar("Item")


class TaskThreads(ThreadPoolExecutor):
    """Threads that know which task they work for: `tell`, `here` and their like do there what they do in its own."""

    def submit(self, fn: Callable[..., Item], /, *args: Any, **kwargs: Any) -> Future[Item]:
        """As ThreadPoolExecutor, whose `map` calls this."""
        return super().submit(copy_context().run, fn, *args, **kwargs)


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yields the items, each made in another thread while the caller works on the one before."""
    with TaskThreads(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def several_at_once(work: Callable[..., Item], *given: Iterable[Any], threads: int) -> Iterator[Item]:
    """As map: so many items are made at once.

    Where one fails, those not begun are left out, and it is raised when the others have ended. A single thread is the
    caller's own: glibc keeps what passes need of memory there, and takes it from others' each time.
    """
    if threads == 1:
        yield from map(work, *given)
        return
    with TaskThreads(threads) as pool:
        yield from pool.map(work, *given)
