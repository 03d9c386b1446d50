"""A scheduler and workers as processes of their own, as `dask scheduler` and `dask worker` start them on a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.pipeline.compute.waiting import wait_for

ROOT = Path(__file__).parents[3]
ELSEWHERE = (
    *("unshare", "--map-root-user", "--mount", "sh", "-ec"),
    'mount -t tmpfs -o size="$1" none "$0"; mkdir "$0/scratch"; cd "$0/scratch"; shift; exec "$@"',
)
"""Followed by a folder and a size: runs what follows these where another, empty folder is in its place."""


def has_namespaces() -> bool:
    """Whether this machine lets us start processes that see other folders than we do."""
    return not subprocess.run([*ELSEWHERE, "/mnt", "1m", "true"], capture_output=True, check=False).returncode


@dataclass
class Cluster:
    """What runs, in `folder`; the first process is the scheduler."""

    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    address: str = ""
    options: Sequence[str] = ()
    """Of the scheduler and of all workers."""

    def start(self, *command: str, through: Sequence[str] = ()) -> None:
        """Workers and schedulers find the product as one that is installed. through: a program that starts them."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        argv = [*through, sys.executable, "-m", "dask", *command, *self.options, "--no-dashboard"]
        self.processes.append(
            subprocess.Popen(
                argv, cwd=self.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )

    def start_worker(self, threads: int = 1) -> None:
        """One more worker."""
        options = ["--memory-limit", "2GiB", "--local-directory", str(self.folder)]
        self.start("worker", self.address, "--nthreads", str(threads), *options)

    def start_worker_elsewhere(self, hidden: Path, size: str = "1g") -> None:
        """One more, as on another machine: it sees nothing of a folder, and has a disk of its own in its place."""
        options = ["--memory-limit", "2GiB", "--local-directory", str(hidden / "scratch"), "--nthreads", "1"]
        self.start("worker", self.address, *options, through=[*ELSEWHERE, str(hidden), size])

    def kill_scheduler(self) -> None:
        """Without a word to anybody."""
        self.processes[0].kill()
        self.processes[0].wait()


@contextmanager
def cluster(folder: Path, *, workers: int, options: Sequence[str] = ()) -> Iterator[Cluster]:
    """A scheduler and so many workers that have started in `folder`."""
    folder.mkdir(exist_ok=True)
    found, file = Cluster(folder, options=options), folder / "scheduler.json"
    try:
        found.start("scheduler", "--scheduler-file", str(file), "--port", "0", "--host", "127.0.0.1")
        wait_for(lambda: file.exists() and file.read_text().endswith("}"))
        found.address = json.loads(file.read_text())["address"]
        for _ in range(workers):
            found.start_worker()
        yield found
    finally:
        for process in found.processes:
            process.terminate()
        for process in found.processes:
            process.wait()
