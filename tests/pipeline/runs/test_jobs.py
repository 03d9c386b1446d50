"""Many runs over one cache: how they are shown."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from pipeline.compute.workers import tell
from pipeline.params import ComputeParams
from pipeline.runs import jobs as batches
from pipeline.runs.jobs import run_shown


def test_the_bar_never_moves_back_and_tasks_have_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[float] = []

    @contextmanager
    def bar(title: str, *, total: int, unit: str, done: int) -> Iterator[Callable[[float], None]]:
        assert (total, done) == (16, 4)
        yield moves.append

    def look(task: int) -> int:
        tell(1 / 3)
        tell(0.25)
        assert 1.9 < sum(moves) % 6 <= 2
        assert torch.get_num_threads() == 1
        return task

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(batches, "progress_bar", bar)
    try:
        list(run_shown("work", look, [7, 8], ComputeParams(workers=1), unit="runs", units=lambda task: 6, done=4))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert sum(moves) == 12
