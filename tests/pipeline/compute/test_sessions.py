"""Workers of a cluster: that start in another folder, come late, are never there, or lose their scheduler."""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from pathlib import Path
from time import sleep

import dask
import pytest
import safetensors.torch
import timm
import torch
from distributed import LocalCluster, get_worker
from distributed.comm import CommClosedError
from distributed.security import Security

from pipeline.backbones import load_backbone
from pipeline.compute import cluster as clusters
from pipeline.compute import errand, workers
from pipeline.compute.cluster import SchedulerError
from pipeline.compute.store import Store, StoreError
from pipeline.compute.workers import AHEAD, memory_per_worker, run_tasks, session, worker_count
from pipeline.faces.stage import build_faces
from pipeline.features.stage import build_features
from pipeline.manifest.build import build_manifest
from pipeline.params import ComputeParams, Params, parse_params
from pipeline.shards.stage import StageError
from pipeline.sound.stage import build_spectrograms
from pipeline.workspace import Workspace
from tests.pipeline.compute.clusters import cluster
from tests.pipeline.compute.waiting import wait_for
from tests.pipeline.test_pipeline import assert_same_cache
from tests.pipeline.tiny import TinyClips

# Dask's own sockets are closed by its event loop, some time after the cluster is.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def double(task: int) -> int:
    return 2 * task


def cluster_of_threads(workers: int) -> LocalCluster:
    """A scheduler in this process, which starts at once."""
    return LocalCluster(n_workers=workers, processes=False, dashboard_address="127.0.0.1:0")


def test_workers_may_come_and_go() -> None:
    """An adaptive cluster has none until there are tasks, and none again when there is a pause."""
    with cluster_of_threads(0) as adaptive:
        adaptive.adapt(minimum=0, maximum=1, interval="50ms", wait_count=5)
        compute = ComputeParams(scheduler=adaptive.scheduler_address)
        with session(compute):
            assert dict(run_tasks(double, [1, 2, 3], compute)) == {1: 2, 2: 4, 3: 6}
            wait_for(lambda: not adaptive.scheduler.workers)
            assert memory_per_worker(compute, 1) > 0
            assert dict(run_tasks(double, [4], compute)) == {4: 8}


def test_a_scheduler_does_not_remember_every_task() -> None:
    with cluster_of_threads(1) as found:
        list(run_tasks(double, range(100), ComputeParams(scheduler=found.scheduler_address)))
        assert not found.scheduler.tasks
        assert len(found.scheduler.task_prefixes) < 5  # what it knows of each kind of task, for ever


def test_a_cluster_without_workers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "WAIT_S", 0.5)
    with (
        cluster(tmp_path, workers=0) as found,
        pytest.raises(SchedulerError, match=rf"{found.address} has had no worker for 0.5 s: start some"),
    ):
        list(run_tasks(double, [1], ComputeParams(scheduler=found.address)))


def leave(task: int) -> int:
    """The worker is gone before its task is done."""
    worker = get_worker()
    worker.loop.add_callback(partial(worker.close, executor_wait=False, nanny=False, reason=""))
    sleep(0.1)
    return task


def test_a_cluster_that_loses_its_workers_is_given_up_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a task is done, and before its result is fetched."""
    monkeypatch.setattr(clusters, "WAIT_S", 0.2)
    monkeypatch.setattr(workers, "RESULT_S", 0.2)
    with cluster_of_threads(1) as found, pytest.raises(SchedulerError, match=r"no worker for 0.2 s: start some"):
        list(run_tasks(leave, [1], ComputeParams(scheduler=found.scheduler_address)))
    assert "waiting for workers of" in capsys.readouterr().err
    with cluster_of_threads(1) as found:
        results = run_tasks(double, [1, 2], ComputeParams(scheduler=found.scheduler_address))
        next(results)
        wait_for(lambda: all(task.state == "memory" for task in found.scheduler.tasks.values()))
        found.sync(found.workers[0].close)
        with pytest.raises(SchedulerError, match="has had no worker"):
            next(results)


def test_what_a_worker_says_of_the_store_and_that_one_is_lost_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, lost = errand._store, []

    def open_store(url: str) -> Store:
        if not lost:
            lost.append(url)
            raise CommClosedError  # what the scheduler has in place of what it would have said
        return opened(url)

    monkeypatch.setattr(errand, "_store", open_store)
    with cluster_of_threads(2) as found:
        compute = ComputeParams(scheduler=found.scheduler_address, store=f"file://{tmp_path}")
        assert dict(run_tasks(double, [1, 2], compute, needs=lambda task: {})) == {1: 2, 2: 4}
        with pytest.raises(StoreError, match=r"^said$"):
            list(run_tasks(refuse, [1], compute, needs=lambda task: {}))
        monkeypatch.setattr(errand, "_store", None)  # as in other code
        with pytest.raises(SchedulerError, match=r"has other code than this command .*start it anew"):
            list(run_tasks(double, [1], compute, needs=lambda task: {}))
    assert lost


def refuse(task: int) -> None:
    raise StoreError("said") from ValueError(threading.Lock())  # as errors of S3's client, no pickle


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "no address"])
def test_a_scheduler_out_of_reach_is_named(address: str) -> None:
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.5s"}),
        pytest.raises(SchedulerError, match=f"the scheduler {address} cannot be reached .*start one"),
    ):
        list(run_tasks(double, [1], ComputeParams(scheduler=address)))


def test_a_cluster_with_certificates_whose_worker_comes_late(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, files = Security.temporary(), {}
    for name, content in (("ca-file", made.tls_ca_file), ("cert", made.tls_client_cert), ("key", made.tls_client_key)):
        files[name] = tmp_path / f"{name}.pem"
        files[name].write_text(content)
    options = [word for name, path in files.items() for word in (f"--tls-{name}", str(path))]
    settings = {"ca-file": str(files["ca-file"]), "client.cert": str(files["cert"]), "client.key": str(files["key"])}
    with cluster(tmp_path / "cluster", workers=0, options=options) as found:
        compute = ComputeParams(scheduler=found.address)
        with pytest.raises(SchedulerError, match=rf"{found.address} wants a certificate.*docs/scale.md"):
            list(run_tasks(double, [1, 2], compute))
        later = threading.Timer(1.0, found.start_worker, kwargs={"threads": 2})
        later.start()
        with (
            dask.config.set({f"distributed.comm.tls.{name}": value for name, value in settings.items()}),
            session(compute),
        ):
            assert memory_per_worker(compute, 3) > 0
            assert (worker_count(compute, 3), worker_count(compute, 1)) == (2, 1)
            assert dict(run_tasks(double, [1, 2, 3], compute)) == {1: 2, 2: 4, 3: 6}
        later.join()
    said = capsys.readouterr().err
    assert "warning" not in said
    assert said.count(f"waiting for workers of {found.address}") == 1
    assert said.count("dashboard") == 1  # one client for all


def test_a_scheduler_that_anybody_can_reach_is_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    with dask.config.set({"distributed.comm.timeouts.connect": "0.5s"}):
        for address in ("tcp://scheduler.invalid:8786", "tcp://127.0.0.1:9", "tcp://[::1]:9", "tcp://localhost:9"):
            with pytest.raises(SchedulerError):
                list(run_tasks(double, [1], ComputeParams(scheduler=address)))
    said = capsys.readouterr().err
    assert said.count("warning") == 1
    assert "whoever can reach tcp://scheduler.invalid:8786" in said


def process_of(task: int) -> int:
    return os.getpid()


def test_a_session_keeps_its_workers_and_tasks_are_sent_a_few_ahead() -> None:
    compute = ComputeParams(workers=2)
    taken = []
    tasks = (taken.append(i) or i for i in range(1000))
    with session(compute):
        some = run_tasks(process_of, tasks, compute, most=1000)
        processes = {next(some)[1] for _ in range(20)}
        some.close()
        assert len(taken) <= 20 + 4 * AHEAD  # under way, and finished together with the twentieth
        processes |= {process for _, process in run_tasks(process_of, [1, 2, 3, 4], compute)}
        assert len(processes) <= 2


OWN = """
import torch
from pipeline.backbones import Backbone

class Own(Backbone):
    def maps(self, windows):
        return [windows.float().flatten(2)[:, :, :8].transpose(1, 2) * self.net[0]]

def build(modality, params):
    net = torch.nn.ParameterList([torch.ones(1)])
    return Own(modality, params, net, input="crops", stages=[("0", 8)], transform="none")
"""


def own_params(**compute: object) -> Params:
    """Paths as people write them: relative to the folder in which they work."""
    features = {
        "visual": [{"name": "own_net:build", "weights": "seed:0"}],
        "audio": [{"name": "test_efficientnet", "weights": "file:weights.safetensors", "layers": 1}],
        "length": 4,
    }
    return parse_params(
        {
            "data": {"root": "clips", "layout": "csv"},
            "split": {"val": 0.3, "test": 0.3},
            "windows": {"window_s": 1.0, "max_per_clip": 1},
            "faces": {"frames": 2, "size_px": 32},
            "features": features,
            "compute": compute,
        },
        source="test",
    )


def write_weights(folder: Path, seed: int) -> None:
    """Of the network for sound; read anew in this process, as a new command does."""
    torch.manual_seed(seed)
    state = timm.create_model("test_efficientnet", in_chans=1).state_dict()
    safetensors.torch.save_file(state, folder / "weights.safetensors")
    load_backbone.cache_clear()


def own_project(folder: Path, tiny: TinyClips) -> None:
    """Clips of a few people, a network of one's own, and weights in a file."""
    rows = ["path,subject_id,video_label,audio_label"]
    for i in range(4):
        tiny.put(folder / "clips" / f"{i}.mp4")
        rows.append(f"{i}.mp4,person {i},real,real")
    (folder / "clips" / "manifest.csv").write_text("\n".join(rows) + "\n")
    (folder / "own_net.py").write_text(OWN)
    write_weights(folder, 0)


def test_workers_in_another_folder_find_everything(
    tiny: TinyClips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """spectrograms, faces and features give what they give in this process."""
    own_project(tmp_path, tiny)
    monkeypatch.chdir(tmp_path)
    with cluster(tmp_path / "elsewhere", workers=1) as found:
        for work, compute in {"here": {"workers": 1}, "there": {"scheduler": found.address}}.items():
            workspace, params = Workspace(Path(work)), own_params(**compute)
            build_manifest(workspace, params)
            build_spectrograms(workspace, params)
            build_faces(workspace, params)
            if work == "there":  # the device, too, is found where the work is done
                monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
            assert len(build_features(workspace, params).index) == 4
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        write_weights(tmp_path, 1)  # which the worker has read before
        build_features(workspace, params)
        build_features(Workspace(Path("here")), own_params(workers=1))
        (tmp_path / "own_net.py").write_text(OWN.replace("torch.ones", "torch.zeros"))
        del sys.modules["own_net"]
        load_backbone.cache_clear()
        with pytest.raises(StageError, match=r"another own_net:build .*start the workers anew"):
            build_features(workspace, params)
    assert_same_cache(Workspace(tmp_path / "here"), Workspace(tmp_path / "there"))
    assert not list((tmp_path / "elsewhere").glob("work*/features*"))
