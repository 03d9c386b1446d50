"""Many runs over one cache: planned, shown, kept, and never done on another cache."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import nas
from cache_schemas.features import FeatureCacheError
from cache_schemas.run import RunFileError
from cache_schemas.runs import FinishedRuns, RunRow
from nas.memory import RunMemory
from pipeline.compute import machine
from pipeline.compute.machine import device_of
from pipeline.compute.workers import tell
from pipeline.runs import jobs
from pipeline.runs.cache import Source
from pipeline.runs.jobs import Batch, Job, do, even_size
from pipeline.runs.search import search_batch
from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import make_index, make_workspace
from tests.pipeline.small_experiments import small


def answer(source: Source, batch: Batch[int]) -> list[RunRow]:
    """A row per run; run 3 fails."""
    return [RunRow(seed=run, failed="it is three" * (run == 3), seconds=1.0) for run in batch.runs]


def job(folder: Path, runs: Sequence[int], compute: Callable[..., list[RunRow]] = answer) -> Job[int, RunRow]:
    source = Source(folder, small(), "a cache")
    return Job("work", source, runs, lambda run: run, compute, lambda run: 0, FinishedRuns(folder, RunRow))


def test_the_bar_never_moves_back_and_batches_have_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[float] = []

    @contextmanager
    def bar(title: str, *, total: int, unit: str, done: int) -> Iterator[Callable[[float], None]]:
        assert (total, done) == (18, 6)
        yield moves.append

    def look(source: Source, batch: Batch[int]) -> list[RunRow]:
        tell(1 / 3)
        tell(0.25)
        assert 1.9 < sum(moves) % 6 <= 2
        assert torch.get_num_threads() == 1
        return answer(source, batch)

    monkeypatch.setitem(jobs.MOST_RUNS, "cpu", 6)
    do(job(tmp_path, range(6)))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(jobs, "progress_bar", bar)
    try:
        do(job(tmp_path, range(18), look))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert sum(moves) == 12


def test_a_failed_run_is_kept_with_its_reason_and_its_companions_with_theirs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = do(job(tmp_path, range(5)))
    assert [row.failed for row in rows.values()] == ["", "", "", "it is three", ""]
    assert list(rows) == list(range(5))

    def never(source: Source, batch: Batch[int]) -> list[RunRow]:
        raise AssertionError("a finished run was done again")

    assert do(job(tmp_path, range(5), never)) == rows
    said = " ".join(capfd.readouterr().err.split())
    assert said.count("1 of 5 runs failed; the first one: it is three") == 2
    assert "5 runs: 5 already done, 0 to do" in said


def test_what_was_finished_before_an_end_in_the_middle_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(jobs.MOST_RUNS, "cpu", 2)
    seen: list[int] = []

    def breaks(source: Source, batch: Batch[int]) -> list[RunRow]:
        seen.extend(batch.runs)
        if 4 in batch.runs:
            raise KeyboardInterrupt
        return answer(source, batch)

    with pytest.raises(KeyboardInterrupt):
        do(job(tmp_path, range(6), breaks))
    assert seen == [0, 1, 2, 3, 4, 5]
    again: list[int] = []

    def goes_on(source: Source, batch: Batch[int]) -> list[RunRow]:
        again.extend(batch.runs)
        return answer(source, batch)

    assert len(do(job(tmp_path, range(6), goes_on))) == 6
    assert again == [4, 5]


def test_a_damaged_file_of_finished_runs_is_named(tmp_path: Path) -> None:
    do(job(tmp_path, [1]))
    path = next(tmp_path.glob("*.json"))
    path.write_text(path.read_text().replace("seed", "sead"))
    with pytest.raises(RunFileError, match=rf"{path.name}: Field required: remove the file"):
        do(job(tmp_path, [1]))
    assert do(job(tmp_path, [2]))[2].seed == 2, "runs that nobody asks for are not looked at"
    path.write_text("{")
    with pytest.raises(RunFileError, match="is not JSON"):
        do(job(tmp_path, [1]))


def test_a_run_whose_file_is_gone_is_not_finished(tmp_path: Path) -> None:
    finished = FinishedRuns(tmp_path, RunRow)
    (tmp_path / "weights").write_text("")
    finished.add({"a": RunRow(seed=0, seconds=0, file="weights"), "b": RunRow(seed=1, seconds=0)})
    assert set(finished.read({"a", "b"})) == {"a", "b"}
    (tmp_path / "weights").unlink()
    assert set(finished.read({"a", "b"})) == {"b"}


def test_a_cache_that_was_replaced_after_planning_is_refused(tmp_path: Path) -> None:
    """What is computed on the new cache would be kept under the old one's name."""
    index = make_index()
    workspace, params = make_workspace(tmp_path, index), small()
    source = Source.of(workspace, params)
    index["label"] = 1 - index["label"]
    make_workspace(tmp_path, index)
    with pytest.raises(FeatureCacheError, match="is no longer the cache that this work was planned on"):
        search_batch(source, Batch(("key",), ((nas.SearchConfig(), 0),)), judged=())
    assert Source.of(workspace, params).identity != source.identity


def test_a_task_finds_its_cache_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_workspace(tmp_path / "work", make_index(subjects=5))
    monkeypatch.chdir(tmp_path)
    source = Source.of(Workspace(Path("work")), small())
    monkeypatch.chdir("/")
    assert len(source.windows().labels) == 40


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 9))
def test_batches_are_no_larger_than_allowed_and_no_worker_has_one_more_than_needed(
    runs: int, most: int, workers: int
) -> None:
    size = even_size(runs, most, workers)
    assert 1 <= size <= most
    per_worker = -(-ceil(runs / size) // workers)
    assert per_worker == -(-runs // (most * workers))  # as few rounds as the largest batches take
    assert size == 1 or -(-runs // (size - 1)) > per_worker * workers  # and no batch could be smaller


def test_a_clusters_workers_say_what_they_compute_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the client: it may have no GPU where they have, or the other way round."""
    asked: list[object] = []
    sizes: list[int] = []

    def run_tasks(function: Callable[..., object], tasks: Sequence[Any], *rest: object) -> Iterator[tuple[Any, Any]]:
        for task in tasks:
            if isinstance(task, Batch):
                sizes.append(len(task.runs))
                yield task, function(task)
            else:
                asked.append(function)
                yield task, "cuda"

    monkeypatch.setattr(jobs, "run_tasks", run_tasks)
    monkeypatch.setattr(jobs, "worker_count", lambda compute, runs: 1)
    here = job(tmp_path / "here", range(100))
    there = replace(here, source=replace(here.source, params=small(compute={"scheduler": "tcp://there:8786"})))
    do(replace(there, finished=FinishedRuns(tmp_path / "there", RunRow)))
    assert sizes == [100]
    assert asked == [device_of]
    do(here)
    assert max(sizes[1:]) <= jobs.MOST_RUNS["cpu"]


@pytest.mark.parametrize(
    ("gpus", "workers", "sizes"), [(1, 0, [80]), (4, 0, [20] * 4), (4, 2, [40] * 2), (1, 16, [80])]
)
def test_on_gpus_all_runs_are_in_one_process_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, workers: int, sizes: list[int]
) -> None:
    """Not as many processes as cores, each with a few runs: together they would take as long as one after the other."""
    seen: list[int] = []

    def run_tasks(function: Any, tasks: Sequence[Any], compute: Any, *rest: object) -> Iterator[tuple[Any, Any]]:
        assert compute.workers == len(sizes)
        for task in tasks:
            seen.append(len(task.runs))
            yield task, function(task)

    monkeypatch.setattr(jobs, "run_tasks", run_tasks)
    monkeypatch.setattr(machine, "cores", lambda: 16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    here = job(tmp_path, range(80))
    do(replace(here, source=replace(here.source, params=small(compute={"device": "auto", "workers": workers}))))
    assert seen == sizes


def test_a_gpus_batch_is_as_large_as_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it: no other process computes there. On two GPUs the one with less decides."""
    workspace, params = make_workspace(tmp_path, make_index()), small(compute={"device": "auto"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (1_000_000_000 * (1 + (device or 0)), 0))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100_000_000)
    windows = Source.of(workspace, small()).windows()
    monkeypatch.setattr(Source, "windows", lambda self: windows)
    sizes: list[int] = []

    def run_tasks(function: Any, tasks: Sequence[Any], *rest: object) -> Iterator[tuple[Any, Any]]:
        for task in tasks:
            sizes.append(len(task.runs))
            yield task, answer(source, task)

    monkeypatch.setattr(jobs, "run_tasks", run_tasks)
    taken = RunMemory(0, 20_000_000)
    source = Source.of(workspace, params)
    do(replace(job(tmp_path / "a", range(160)), source=source, memory=lambda data, runs: taken))
    assert sizes == [40] * 4, "the smaller GPU has 1 GB free and 0.4 GB more that torch keeps: 42 runs fit 60 % of it"
