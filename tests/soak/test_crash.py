"""A small edition of `make soak-crash`, in one process each."""

from pathlib import Path

import pytest

from tests.soak.crash import Crash


@pytest.mark.slow
@pytest.mark.parametrize("runs", [1, 2])
def test_killed_runs_leave_the_cache_of_an_undisturbed_one(tmp_path: Path, runs: int, capsys: object) -> None:
    tally = Crash(tmp_path, runs=runs, workers=1, clips=16, seed=runs).soak(2)
    assert tally.kills.total() >= 2
