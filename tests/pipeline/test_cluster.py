"""Worker processes that die, a client that dies, a disk that is full, workers that were started elsewhere."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml

from cache_schemas.manifest import read_quarantine, write_manifest
from cache_schemas.media import SPECTROGRAMS
from cache_schemas.shards import ClipResult, scan_shards
from pipeline import media
from pipeline.params import ComputeParams, Params
from pipeline.shard_stage import BYTES_PER_SHARD, CLIPS_PER_SHARD, ClipJob, group_jobs, run_shard_stage
from pipeline.spectrograms import build_spectrograms, clip_spectrograms, spectrogram_key
from pipeline.workspace import Workspace
from tests.pipeline.clips import make_clip
from tests.pipeline.conftest import small_params
from tests.pipeline.test_faults import clip_of

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
def started(root: Path, work: Path, *options: str, preexec: Callable[[], None] | None = None) -> Iterator[psutil.Popen]:
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
        for child in [*process.children(recursive=True), process]:
            child.kill()
        process.communicate()


def wait_for(found: Callable[[], object], seconds: float = 60.0) -> object:
    """The first true value of `found`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.01)
    raise AssertionError(f"nothing within {seconds:g} s")


def decoder_of(process: psutil.Popen) -> psutil.Process | None:
    """An ffmpeg that some worker of `process` waits for."""
    for child in process.children(recursive=True):
        try:
            if "ffmpeg" in child.name() and "00-slow" in " ".join(child.cmdline()):
                return child
        except psutil.NoSuchProcess:
            continue
    return None


def test_a_killed_worker_leaves_no_decoder_and_its_work_is_done_again(
    root: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    workspace, _ = prepare(root, tmp_path)
    with started(root, tmp_path, "--workers", "2") as process:
        decoder = wait_for(lambda: decoder_of(process))
        assert isinstance(decoder, psutil.Process)
        worker = decoder.parent()
        assert worker is not None
        worker.kill()
        wait_for(lambda: not decoder.is_running() or decoder.status() == psutil.STATUS_ZOMBIE, seconds=5)
        _, log = process.communicate(timeout=100)
    assert process.returncode == 0, log
    assert "0 in quarantine" in log
    assert "dashboard" in log
    assert shards(workspace) == undisturbed


def test_a_killed_client_takes_everything_with_it_and_loses_nothing_finished(
    root: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    workspace, params = prepare(root, tmp_path)
    with started(root, tmp_path, "--workers", "2") as process:
        wait_for(lambda: decoder_of(process) and shards(workspace))
        family = process.children(recursive=True)
        process.kill()
        wait_for(lambda: not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], seconds=20)
    finished = {path: path.stat().st_mtime_ns for path in workspace.spectrograms.glob("*.h5")}
    assert finished
    build_spectrograms(workspace, params)
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())
    assert shards(workspace) == undisturbed
    assert not list(workspace.root.rglob("*.tmp"))


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(
    root: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """No file may grow beyond 1 MiB (the shard of the slow clip is larger, others are not)."""
    workspace, params = prepare(root, tmp_path)
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({1 << 20}, {1 << 26})); "
    settings = tmp_path / "params.yaml"
    settings.write_text(yaml.safe_dump({"data": {"root": str(root), "layout": "csv"}}))
    command = [sys.executable, "-c", f"{limit}from pipeline.cli import main; main()", "spectrograms"]
    failed = subprocess.run(
        [*command, "--params", str(settings), "--work", str(tmp_path), "--workers", "1"], capture_output=True, text=True
    )
    assert failed.returncode == 1
    assert "error:" in failed.stderr
    assert not list(tmp_path.rglob("*.tmp"))
    build_spectrograms(workspace, params)
    assert shards(workspace) == undisturbed
