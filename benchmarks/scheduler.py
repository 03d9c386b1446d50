"""`python -m benchmarks.scheduler --clips 10000 100000`: what a million clips cost beside their media.

Clips of a few bytes, a scheduler and two workers as on a cluster: `manifest` lists, hashes and splits them; the stages'
own loop sends every shard's task, which opens its files and writes a shard that holds the table of clips but no
windows; a second run finds all of it done. Each step is a process of its own, so that its peak is, too.
A million clips need 10 GB of disk and half an hour.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from cache_schemas.manifest import read_manifest
from cache_schemas.shards import ClipResult, ShardSchema
from pipeline.compute.progress import console
from pipeline.manifest.build import build_manifest
from pipeline.params import Params, parse_params
from pipeline.shards.stage import ClipJob, run_shard_stage
from pipeline.workspace import Workspace
from tests.pipeline.compute.clusters import cluster

EMPTY = ShardSchema("spectrograms", ())
INFO = {"duration_s": 4.0, "available_s": 4.0, "leading_silence_s": 0.13, "sample_rate_hz": 16000, "reason": ""}
IN_A_FOLDER = 1000


COLUMNS = (
    *("clips", "step", "ms a clip", "of a core: client", "scheduler", "workers"),
    *("MiB before", "client's peak", "scheduler's peak"),
)


def main() -> None:
    """Measures and prints; what it says of cores holds on a busy machine, too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=[10_000], help="how many")
    table = Table(*COLUMNS)
    for count in parser.parse_args().clips:
        with tempfile.TemporaryDirectory(prefix="bmnas-bench-") as folder:
            measure(Path(folder), count, table)
    Console(width=140).print(table)


def measure(folder: Path, count: int, table: Table) -> None:
    """Adds a row for each step."""
    draw(folder / "clips", count)
    with cluster(folder / "cluster", workers=2) as found:
        scheduler, *workers = (psutil.Process(process.pid) for process in found.processes)
        for step in (manifest, listed, stage, stage):
            before = np.array([core_s([scheduler]), core_s(workers)])
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                seconds, own_s, *mib = process.submit(measured, step, folder, found.address).result()
            others_s = np.array([core_s([scheduler]), core_s(workers)]) - before
            times = (f"{1e3 * each / count:.3f}" for each in (seconds, own_s, *others_s))
            row = [str(cell) for cell in (count, step.__name__, *times, *mib, peak_mib(scheduler.pid))]
            table.add_row(*row)
            Console(stderr=True).print(*row)


def core_s(processes: Iterable[psutil.Process]) -> float:
    """Seconds of a core that they and what they started have had."""
    family = (each for process in processes for each in (process, *process.children(recursive=True)))
    return sum(sum(each.cpu_times()[:2]) for each in family)


def draw(root: Path, count: int) -> None:
    """So many files, each of another content, and the table of who is in them: 2,000 people at most."""
    root.mkdir()
    with (root / "manifest.csv").open("w", encoding="utf-8") as table:
        table.write("path,subject_id,video_label,audio_label,method\n")
        for i in range(count):
            path = f"FakeVideo-FakeAudio/African/women/id{i // IN_A_FOLDER:05d}/{i:08d}_id00076_wavtolip.mp4"
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(f"clip {i}")
            table.write(f"{path},id{i % 2000:05d},{i % 2},{i // 2 % 2},wavtolip\n")


def measured(step: Callable[[Workspace, Params], None], folder: Path, scheduler: str) -> tuple[float, ...]:
    """(seconds, those of a core, MiB that the process had before and at its peak)."""
    console.quiet = True
    data = {"root": str(folder / "clips"), "layout": "csv"}
    params = parse_params({"data": data, "compute": {"scheduler": scheduler}}, source="benchmark")
    before, start, start_of_core = peak_mib(), time.perf_counter(), time.process_time()
    step(Workspace(folder / "work"), params)
    return time.perf_counter() - start, time.process_time() - start_of_core, before, peak_mib()


def manifest(workspace: Workspace, params: Params) -> None:
    """The whole stage."""
    build_manifest(workspace, params)


def listed(workspace: Workspace, params: Params) -> None:
    """What the stage's loop is given."""
    jobs_of(workspace)


def stage(workspace: Workspace, params: Params) -> None:
    """The loop that `spectrograms` and `faces` share."""
    jobs = jobs_of(workspace)
    run_shard_stage(workspace.spectrograms, EMPTY, "key", jobs, nothing, workspace=workspace, params=params)


def jobs_of(workspace: Workspace) -> list[ClipJob]:
    """Every clip of the manifest."""
    return [ClipJob(clip, plan="") for clip in read_manifest(workspace.manifest)]


def nothing(job: ClipJob, path: Path, params: Params) -> ClipResult:
    """A clip of one window, of which nothing is kept."""
    return ClipResult(job.clip.clip_id, job.plan, (0.13,), {}, INFO)


def peak_mib(pid: int | str = "self") -> int:
    """Of a process, since it began."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    from benchmarks import scheduler  # noqa: PLW0406 - workers find `nothing` by this name

    scheduler.main()
