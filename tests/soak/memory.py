"""`python -m tests.soak.memory`: the spectrograms stage over 100 and over 2,000 small clips; memory must stay flat.

Also prints the throughput of one worker process and of four. Every clip is another one (its title differs).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
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


def measure(root: Path, paths: list[Path], *, workers: int) -> tuple[float, float, float]:
    """(seconds of computing, peak MiB of the parent process, peak MiB of the largest worker) of one run."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        work = Path(folder)
        write_manifest(Workspace(work).manifest, [clip_of(root, path, i) for i, path in enumerate(paths)])
        (work / "params.yaml").write_text(yaml.safe_dump({"data": {"root": str(root), "layout": "csv"}}))
        command = [sys.executable, "-c", "from pipeline.cli import main; main()", "spectrograms"]
        options = ["--params", str(work / "params.yaml"), "--work", folder, "--workers", str(workers)]
        start = time.monotonic()
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
        return time.monotonic() - start, peaks["parent"], peaks["worker"]


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
    grown = False
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        paths = build(Path(folder), max(arguments.clips))
        for workers in arguments.workers:
            few, many = (measure(Path(folder), paths[:count], workers=workers) for count in sorted(arguments.clips))
            clips = max(arguments.clips) - min(arguments.clips)
            print(f"{workers} workers: {clips / (many[0] - few[0]):.1f} clips/s beyond the start", flush=True)
            for name, one, other in (("parent", few[1], many[1]), ("largest worker", few[2], many[2])):
                print(f"  {name}: {one:.0f} MiB with few clips, {other:.0f} MiB with many", flush=True)
                grown |= other > 1.1 * one + 50
    raise SystemExit(grown)


if __name__ == "__main__":
    main()
