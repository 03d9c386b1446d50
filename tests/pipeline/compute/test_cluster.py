"""Worker processes that die, a client that dies, a disk that is full, workers that were started elsewhere."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest
import yaml

from cache_schemas.manifest import read_quarantine, write_manifest
from cache_schemas.media import SPECTROGRAMS
from cache_schemas.shards import scan_shards
from pipeline.params import ComputeParams, Params
from pipeline.shards.stage import BYTES_PER_SHARD, CLIPS_PER_SHARD, ClipJob, group_jobs, run_shard_stage
from pipeline.sound.stage import build_spectrograms, spectrogram_key
from pipeline.workspace import Workspace
from tests.pipeline.clips import make_clip
from tests.pipeline.compute.clusters import cluster, has_namespaces
from tests.pipeline.compute.waiting import wait_for
from tests.pipeline.conftest import small_params
from tests.pipeline.killer import die_on_the_third, live
from tests.pipeline.test_faults import clip_of
from tests.s3 import s3_server

# Dask's own sockets are closed by its event loop, some time after the cluster is.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

N_CLIPS = 20
SLOW_S = 900.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short clips, and one so long that its decoding is seen."""
    folder = tmp_path_factory.mktemp("clips")
    make_clip(
        folder / "00-slow.mkv",
        *("-c:v", "mpeg4", "-g", "10", "-c:a", "flac", "-ar", "48000"),
        picture="color=s=16x16:r=1",
        sound="anoisesrc=a=0.1:r=48000",
        seconds=SLOW_S,
    )
    short = make_clip(folder / "01.mp4")
    for i in range(2, N_CLIPS):
        (folder / f"{i:02d}.mp4").write_bytes(short.read_bytes())
    return folder


def prepare(root: Path, work: Path) -> tuple[Workspace, Params]:
    """A workspace with a manifest of all clips, as if each had another content."""
    workspace = Workspace(work)
    paths = sorted(root.glob("*.m*"))
    write_manifest(workspace.manifest, [clip_of(root, path, i) for i, path in enumerate(paths)])
    return workspace, small_params(root)


def shards(workspace: Workspace) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in workspace.spectrograms.glob("*.h5")}


@pytest.fixture(scope="module")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The shards of a run in one process."""
    workspace, params = prepare(root, tmp_path_factory.mktemp("undisturbed"))
    build_spectrograms(workspace, params)
    return shards(workspace)


@contextmanager
def started(root: Path, work: Path, *options: str) -> Iterator[psutil.Popen]:
    """`bmnas spectrograms` as a process of its own."""
    settings = work / "params.yaml"
    work.mkdir(parents=True, exist_ok=True)
    settings.write_text(yaml.safe_dump({"data": {"root": str(root), "layout": "csv"}}))
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "spectrograms"]
    process = psutil.Popen(
        [*command, "--params", str(settings), "--work", str(work), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            for child in [*process.children(recursive=True), process]:
                child.kill()
        process.communicate()


def decoder_of(process: psutil.Popen) -> psutil.Process | None:
    """The process that reads the slow clip for some worker of `process`: a copy of the worker's decoder."""
    for child in process.children(recursive=True):
        try:
            server = child.parent()
            decodes = server and all("decoder.server" in " ".join(each.cmdline()) for each in (child, server))
            if decodes and any("00-slow" in str(file.readlink()) for file in Path(f"/proc/{child.pid}/fd").iterdir()):
                return child
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            continue
    return None


def test_a_killed_worker_leaves_no_decoder_and_its_work_is_done_again(
    root: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    workspace, _ = prepare(root, tmp_path)
    with started(root, tmp_path, "--workers", "2") as process:
        decoder = wait_for(lambda: decoder_of(process))
        assert isinstance(decoder, psutil.Process)
        server, worker, *_ = decoder.parents()
        worker.kill()
        for each in (decoder, server):
            wait_for(lambda each=each: not each.is_running() or each.status() == psutil.STATUS_ZOMBIE, seconds=5)
        _, log = process.communicate(timeout=100)
    assert process.returncode == 0, log
    assert "0 in quarantine" in log
    assert "dashboard" in log
    assert shards(workspace) == undisturbed


def is_alive(process: psutil.Process) -> bool:
    """Whether it is there and has not ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def test_a_killed_client_takes_everything_with_it_and_loses_nothing_finished(
    root: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    workspace, params = prepare(root, tmp_path)
    with started(root, tmp_path, "--workers", "2") as process:
        wait_for(lambda: shards(workspace))
        assert process.poll() is None
        family = process.children(recursive=True)
        process.kill()
        wait_for(lambda: not any(map(is_alive, family)), seconds=20)
    finished = {path: path.stat().st_mtime_ns for path in workspace.spectrograms.glob("*.h5")}
    assert finished
    build_spectrograms(workspace, params, prune=True)  # what was being written when it died, too
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())
    assert shards(workspace) == undisturbed
    assert not list(workspace.root.rglob("*.tmp"))


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(
    root: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """No file may grow beyond 200 KiB: the first shard does."""
    workspace, params = prepare(root, tmp_path)
    settings = tmp_path / "params.yaml"
    settings.write_text(yaml.safe_dump({"data": {"root": str(root), "layout": "csv"}}))
    # Only this process's files; ffmpeg's are in memory, and have their own limit.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200 << 10, resource.RLIM_INFINITY)); "
    command = [sys.executable, "-c", f"{limit}from pipeline.cli import main; main()", "spectrograms", "--workers", "1"]
    failed = subprocess.run(
        [*command, "--params", str(settings), "--work", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    assert "File too large" in failed.stderr
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list(tmp_path.rglob("*.h5"))
    build_spectrograms(workspace, params)
    assert shards(workspace) == undisturbed


def test_a_clip_that_kills_its_process_is_found_out(root: Path, tmp_path: Path) -> None:
    workspace, params = prepare(root, tmp_path)
    params = params.model_copy(update={"compute": ComputeParams(workers=2)})
    jobs = [ClipJob(clip_of(root, root / f"{i:02d}.mp4", i), plan="") for i in range(1, 6)]
    entries = run_shard_stage(
        workspace.spectrograms, SPECTROGRAMS, "key", jobs, die_on_the_third, workspace=workspace, params=params
    )
    assert len(entries) == 4
    (row,) = read_quarantine(workspace.quarantine("spectrograms"))
    assert row.path == "03.mp4"
    assert "process that took it died" in row.reason
    params = params.model_copy(update={"compute": ComputeParams(workers=1)})
    entries = run_shard_stage(
        workspace.spectrograms, SPECTROGRAMS, "key", jobs, live, workspace=workspace, params=params
    )
    assert len(entries) == 5  # it may have been the machine's fault


def test_a_cluster_that_loses_its_scheduler_loses_nothing_finished(
    root: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    workspace, params = prepare(root, tmp_path)
    with (
        cluster(tmp_path / "elsewhere", workers=2) as found,
        started(root, tmp_path, "--scheduler", found.address) as process,
    ):
        wait_for(lambda: shards(workspace))
        assert process.poll() is None
        found.kill_scheduler()
        _, log = process.communicate(timeout=100)
    assert process.returncode == 1, log
    assert f"error: the scheduler {found.address} is gone" in log
    assert "Traceback" not in log
    finished = {path: path.stat().st_mtime_ns for path in workspace.spectrograms.glob("*.h5")}
    build_spectrograms(workspace, params)
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())
    assert shards(workspace) == undisturbed


@pytest.fixture
def bucket() -> Iterator[Any]:
    """Of an S3, empty."""
    with s3_server():
        files = fsspec.filesystem("s3", use_listings_cache=False)
        files.mkdir("bucket")
        yield files


@pytest.mark.skipif(not has_namespaces(), reason="needs mount namespaces (unshare), to hide folders from workers")
def test_what_workers_without_a_common_folder_finished_is_not_done_again(
    bucket: Any, root: Path, tmp_path: Path, undisturbed: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker dies, then the command, both while the slow clip is being read; the other worker reads it to its end."""
    workspace, params = prepare(root, tmp_path)
    (slow,) = (name for name, shard in undisturbed.items() if b'"0000000000000000"' in shard)
    store = "s3://bucket"
    with cluster(tmp_path / "cluster", workers=0) as found:
        for _ in range(2):
            found.start_worker_elsewhere(root.parent)
        busy, other = (psutil.Process(each.pid) for each in found.processes[1:])
        with started(root, tmp_path, "--scheduler", found.address, "--store", store) as process:
            wait_for(lambda: decoder_of(busy) or decoder_of(other))
            busy, other = (busy, other) if decoder_of(busy) else (other, busy)
            for each in [*busy.children(recursive=True), busy]:
                each.kill()
            wait_for(lambda: decoder_of(other) and shards(workspace))
            process.kill()
        finished = {path: path.stat().st_mtime_ns for path in workspace.spectrograms.glob("*.h5")}
        known = len(scan_shards(workspace.spectrograms, SPECTROGRAMS, spectrogram_key(params)))
        wait_for(lambda: [name for name in bucket.find("bucket/made") if name.endswith(slow)])
        compute = ComputeParams(scheduler=found.address, store=store)
        build_spectrograms(workspace, params.model_copy(update={"compute": compute}))
    done = re.search(r"(\d+) already done", capsys.readouterr().err)
    assert done
    assert int(done[1]) > known
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())
    assert shards(workspace) == undisturbed
    assert not bucket.find("bucket/made")


def test_tasks_are_small(root: Path) -> None:
    one = clip_of(root, root / "01.mp4")
    jobs = [
        ClipJob(replace(one, file_bytes=size), plan="") for size in (9, *[BYTES_PER_SHARD // 3] * 7, 2**40, *[1] * 9)
    ]
    groups = group_jobs(jobs)
    assert [job for group in groups for job in group] == jobs
    assert [len(group) for group in groups] == [3, 3, 2, 1, CLIPS_PER_SHARD, 1]
