"""Independent groups of runs on threads of their own.

torch splits every single operation over its threads and waits for the slowest after each: hundreds of times per
step. Runs do not read each other, so on a CPU it is better to give each thread some of the runs, and wait once per
epoch. A GPU takes all runs in one group.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def shares(runs: int, device: torch.device) -> list[slice]:
    """Return the slices of the runs that go together: on a CPU as many as torch has threads, of nearly equal size."""
    count = min(torch.get_num_threads(), runs) if device.type == "cpu" else 1
    bounds = [runs * i // count for i in range(count + 1)]
    return [slice(start, end) for start, end in zip(bounds, bounds[1:], strict=False)]


@contextmanager
def team(size: int) -> Iterator[Callable[[Callable[[Item], Result], Sequence[Item]], list[Result]]]:
    """Give a function like `map` that calls on `size` threads, each with an equal share of torch's threads.

    The first error is raised once all calls have ended.
    """
    threads = torch.get_num_threads()
    if size == 1:
        yield lambda work, items: [work(item) for item in items]
        return
    each = max(threads // size, 1)
    with ThreadPoolExecutor(size, initializer=torch.set_num_threads, initargs=(each,)) as pool:
        try:
            yield lambda work, items: list(pool.map(work, items))
        finally:
            torch.set_num_threads(threads)  # also what threads to come start with
