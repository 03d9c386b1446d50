"""`python -m benchmarks.processes`: the spectrograms stage by Dask's workers beside plain processes, starts included.

Both run the same tasks of the same clips in two processes; the plain ones are `concurrent.futures`', which cannot go on
when a task kills its process. By the clock, and in seconds of a core, which other work on the machine moves less.
Needs no files: it draws clips of 4 s.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.side_by_side import Figure, print_figures
from cache_schemas.manifest import write_manifest
from pipeline.compute.cluster import KEEP_FREED_MEMORY
from pipeline.compute.progress import console
from pipeline.params import ComputeParams, parse_params
from pipeline.shards import stage
from pipeline.sound.stage import build_spectrograms
from pipeline.workspace import Workspace
from tests.pipeline.clips import make_clip
from tests.pipeline.test_faults import clip_of

TURNS = 6


def main() -> None:
    """Compares and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=1000, help="how many")
    count = parser.parse_args().clips
    console.quiet = True
    os.environ |= KEEP_FREED_MEMORY | {"OMP_NUM_THREADS": "1"}  # as Dask's workers have it
    with tempfile.TemporaryDirectory(prefix="bmnas-bench-") as folder:
        root, workspace = Path(folder), Workspace(Path(folder) / "work")
        drawn = make_clip(root / "drawn.mp4", picture="testsrc=s=320x240:r=25", sound="anoisesrc=a=0.2", seconds=4.0)
        paths = [root / f"{i}.mp4" for i in range(count)]
        for path in paths:
            path.hardlink_to(drawn)
        write_manifest(workspace.manifest, [clip_of(root, path, i) for i, path in enumerate(paths)])
        data = {"root": str(root), "layout": "csv"}
        params = parse_params({"data": data, "compute": {"workers": 2}}, source="benchmark")

        def ours() -> None:
            shutil.rmtree(workspace.spectrograms, ignore_errors=True)
            build_spectrograms(workspace, params)

        def theirs() -> None:
            with patch.object(stage, "run_tasks", plainly):
                ours()

        taken_s(ours), taken_s(theirs)
        turns = [(ours, theirs), (theirs, ours)] * (TURNS // 2)
        taken = [{work: taken_s(work) for work in order} for order in turns]
        mine, other = (np.median([turn[work] for turn in taken], axis=0) for work in (ours, theirs))
    print_figures(
        [
            Figure(f"spectrograms of {count} clips in 2 processes, {how}", 1 / 1.05, a, b)
            for how, a, b in zip(("by the clock", "of a core"), mine.tolist(), other.tolist(), strict=True)
        ]
    )


def taken_s(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the clock, and of a core, those of all processes that have ended by then."""
    start, used = time.perf_counter(), sum(os.times()[:4])
    work()
    return time.perf_counter() - start, sum(os.times()[:4]) - used


def plainly(
    function: Callable[[Any], Any], tasks: Sequence[Any], compute: ComputeParams, **_: object
) -> Iterator[tuple[Any, Any]]:
    """As run_tasks; all processes find the files where they are."""
    with ProcessPoolExecutor(compute.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        sent = {pool.submit(function, task): task for task in tasks}
        for future in as_completed(sent):
            yield sent[future], future.result()


if __name__ == "__main__":
    main()
