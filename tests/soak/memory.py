"""`python -m tests.soak.memory`: the spectrograms stage over 100 and over 2,000 small clips; memory must stay flat.

Also prints the throughput of one worker process and of four, the processor time of a clip, how many cores each keeps
busy, and what the second core is worth on this machine. Every clip has a name of its own, and all are one file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from cache_schemas.manifest import write_manifest
from pipeline.workspace import Workspace
from tests.pipeline.clips import make_clip
from tests.pipeline.test_faults import clip_of


def build(root: Path, count: int) -> list[Path]:
    """So many clips of 4 s, links to one file."""
    whole = make_clip(root / "whole.mp4", picture="testsrc=s=160x120:r=25", seconds=4.0)
    paths = [root / f"{i:05d}.mp4" for i in range(count)]
    for path in paths:
        os.link(whole, path)
    return paths


@dataclass(frozen=True)
class Run:
    """One run of the stage, its start included."""

    seconds: float
    cpu_seconds: float
    """Of the whole machine: leave it alone meanwhile."""
    parent_mib: float
    worker_mib: float
    """Peaks, the latter of the largest worker."""


def measure(root: Path, paths: list[Path], *, workers: int) -> Run:
    """The stage over the paths, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        work = Path(folder)
        write_manifest(Workspace(work).manifest, [clip_of(root, path, i) for i, path in enumerate(paths)])
        (work / "params.yaml").write_text(yaml.safe_dump({"data": {"root": str(root), "layout": "csv"}}))
        command = [sys.executable, "-c", "from pipeline.cli import main; main()", "spectrograms"]
        options = ["--params", str(work / "params.yaml"), "--work", folder, "--workers", str(workers)]
        start, busy = time.monotonic(), _busy_seconds()
        process = psutil.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
        peaks = {"parent": 0.0, "worker": 0.0}
        watch = threading.Thread(target=_watch, args=(process, peaks))
        watch.start()
        _, log = process.communicate()
        watch.join()
        assert process.returncode == 0, log
        counted = re.search(r"(\d+)\s+computed", log)
        assert counted is not None
        assert int(counted[1]) == len(paths)
        return Run(time.monotonic() - start, _busy_seconds() - busy, peaks["parent"], peaks["worker"])


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def cores_gain(cores: int, *, rounds: int = 7, seconds: float = 0.5) -> float:
    """How much more loops that share nothing do on all cores than one does on one: below `cores` where the cores share
    what computes, as two threads of one core do."""
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        pool.map(_loops, [seconds] * cores, chunksize=1)
        pairs = [
            (pool.apply(_loops, [seconds]), sum(pool.map(_loops, [seconds] * cores, chunksize=1)))
            for _ in range(rounds)
        ]
    return statistics.median(together / alone for alone, together in pairs)


def _loops(seconds: float) -> int:
    end, done, total = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        for i in range(1000):
            total += i * i
        done += 1
    return done


def _watch(process: psutil.Popen, peaks: dict[str, float]) -> None:
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        try:
            peaks["parent"] = max(peaks["parent"], process.memory_info().rss / 2**20)
            for child in process.children(recursive=True):
                if "python" in child.name():
                    peaks["worker"] = max(peaks["worker"], child.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.2)


def main() -> None:
    """Measures and prints; exit code 1 where memory grows by more than a tenth and 50 MiB."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, nargs=2, default=(100, 2000))
    parser.add_argument("--workers", type=int, nargs="*", default=(1, 4))
    arguments = parser.parse_args()
    grown, rates = False, {}
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        paths = build(Path(folder), max(arguments.clips))
        clips = max(arguments.clips) - min(arguments.clips)
        for workers in arguments.workers:
            few, many = (measure(Path(folder), paths[:count], workers=workers) for count in sorted(arguments.clips))
            seconds, cpu_seconds = many.seconds - few.seconds, many.cpu_seconds - few.cpu_seconds
            rates[workers] = clips / seconds
            print(
                f"{workers} workers: {few.seconds:.1f} s for {min(arguments.clips)} clips, start included; beyond: "
                f"{rates[workers]:.1f} clips/s, {1e3 * cpu_seconds / clips:.1f} ms of processor a clip, "
                f"{cpu_seconds / seconds:.2f} cores busy",
                flush=True,
            )
            for name in ("parent_mib", "worker_mib"):
                one, other = getattr(few, name), getattr(many, name)
                print(f"  {name}: {one:.0f} with few clips, {other:.0f} with many", flush=True)
                grown |= other > 1.1 * one + 50
    cores = len(os.sched_getaffinity(0))
    first, last = min(rates), max(rates)
    print(f"{last} workers over {first}: {rates[last] / rates[first]:.2f}", flush=True)
    print(f"loops that share nothing, {cores} cores over one: {cores_gain(cores):.2f}", flush=True)
    raise SystemExit(grown)


if __name__ == "__main__":
    main()
