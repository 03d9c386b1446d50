"""Items that are made while others are in use."""

import threading
from contextvars import ContextVar

import pytest

from pipeline.compute.ahead import several_at_once

asked: ContextVar[str] = ContextVar("asked", default="nobody")


@pytest.mark.parametrize("threads", [1, 3])
def test_items_come_in_order_and_know_who_asked(threads: int) -> None:
    asked.set("somebody")
    found = several_at_once(lambda a, b: (a, b, asked.get()), "abcdefgh", range(8), threads=threads)
    assert list(found) == [(a, b, "somebody") for a, b in zip("abcdefgh", range(8), strict=True)]


def test_so_many_are_made_at_once_and_no_more() -> None:
    """A few, whatever the number of items: so much memory is needed at most."""
    lock, together, most = threading.Lock(), threading.Barrier(3, timeout=10), [0, 0]

    def work(item: int) -> int:
        with lock:
            most[0] += 1
            most[1] = max(most)
        together.wait()  # fewer than three never come out of here
        with lock:
            most[0] -= 1
        return item

    assert list(several_at_once(work, range(12), threads=3)) == list(range(12))
    assert most[1] == 3


def test_an_error_reaches_the_caller_and_ends_the_threads() -> None:
    before, begun = threading.active_count(), list[int]()

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise OSError("no such disk")
        return item

    with pytest.raises(OSError, match="no such disk"):
        list(several_at_once(work, range(1000), threads=2))
    assert len(begun) < 1000
    assert threading.active_count() == before


def test_a_single_one_is_made_by_the_caller() -> None:
    assert (
        list(several_at_once(lambda _: threading.current_thread(), "ab", threads=1)) == [threading.current_thread()] * 2
    )
