"""Tasks over worker processes."""

import os
import tempfile
import time
from pathlib import Path

import pytest
import torch
from distributed import Client

from pipeline.compute.cluster import local_client
from pipeline.compute.machine import gpus
from pipeline.compute.workers import run_tasks, tell
from pipeline.params import ComputeParams


def square(task: int) -> tuple[int, int, str]:
    if task < 0:
        raise ValueError(f"no root of {task}")
    return task * task, os.getpid(), os.environ.get("OMP_NUM_THREADS", "")


def test_in_this_process() -> None:
    found = dict(run_tasks(square, [1, 2, 3], ComputeParams(workers=1)))
    assert [found[task][0] for task in (1, 2, 3)] == [1, 4, 9]
    assert {pid for _, pid, _ in found.values()} == {os.getpid()}
    assert list(run_tasks(square, [], ComputeParams())) == []


# Dask's own sockets are closed by its event loop, some time after the cluster is.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_in_two_processes_that_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the shell's setting is, which holds for this process only, and stays as it is."""
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    found = dict(run_tasks(square, list(range(8)), ComputeParams(workers=2)))
    assert [found[task][0] for task in range(8)] == [task * task for task in range(8)]
    assert os.getpid() not in {pid for _, pid, _ in found.values()}
    cores = len(os.sched_getaffinity(0))
    assert {threads for _, _, threads in found.values()} == {str(max(1, cores // 2))}
    with pytest.raises(ValueError, match="no root of -1"):
        list(run_tasks(square, [-1, 1], ComputeParams(workers=2)))
    assert os.environ["OMP_NUM_THREADS"] == "17"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_nobody_else_on_this_machine_can_send_work() -> None:
    """A scheduler and its workers run whatever they are sent, and every user of a machine reaches its ports."""
    with local_client(1, 1) as client:
        found = client.scheduler_info()
        addresses = [found["address"], *found["workers"], *(worker["nanny"] for worker in found["workers"].values())]
        assert all(address.startswith("tls://127.0.0.1:") for address in addresses)
        for address in addresses:
            for stranger in ({"address": address.replace("tls", "tcp")}, {"address": address, "security": True}):
                with pytest.raises(OSError, match=r"closed|certificate|reset"):
                    Client(**stranger, timeout=5)
        assert client.submit(square, 3).result()[0] == 9


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_workers_lay_down_is_out_of_others_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes Dask's folder first owns it: what lies in it is read as pickles, and its links are followed."""
    precious, trap = tmp_path / "precious", tmp_path / "dask-scratch-space"
    precious.write_text("kept")
    trap.mkdir()
    trap.chmod(0o777)
    (trap / "global.lock").symlink_to(precious)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with local_client(1, 1) as client:
        (place,) = client.run(lambda dask_worker: dask_worker.local_directory).values()
        above = [folder for folder in Path(place).parents if folder.is_relative_to(tmp_path) and folder != tmp_path]
        assert above[-1].stat().st_mode & 0o077 == 0
    assert precious.read_text() == "kept"
    assert set(tmp_path.iterdir()) == {precious, trap}


def slow_square(task: int) -> int:
    for share in (0.25, 0.5, 0.3):
        tell(share)
    time.sleep(0.5)  # what was told last is on its way
    return task * task


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("processes", [1, 2])
def test_what_tasks_tell_is_heard_before_they_end(processes: int) -> None:
    heard: list[tuple[int, float]] = []
    results = run_tasks(
        slow_square, [7, 8], ComputeParams(workers=processes), lambda task, share: heard.append((task, share))
    )
    first, _ = next(results)
    assert [share for task, share in heard if task == first] == [0.25, 0.5, 0.3]
    assert dict(results).keys() == {7, 8} - {first}
    assert sorted(heard) == [(task, share) for task in (7, 8) for share in (0.25, 0.3, 0.5)]


def seen_gpu(task: int) -> str:
    time.sleep(0.2)  # both workers are to have some
    return os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_each_worker_sees_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that this process may use, by the names that it knows them by."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8f")
    assert set(dict(run_tasks(seen_gpu, list(range(6)), ComputeParams(workers=2))).values()) == {"3", "GPU-8f"}
    assert gpus(ComputeParams(device="cpu")) == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpus(ComputeParams()) == ("0", "1")
