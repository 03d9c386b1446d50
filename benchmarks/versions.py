"""The same work by this version and by an earlier one, in turns, in one run: what it costs each."""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil

_HERE = str(Path(__file__).parents[1])
_SIDE = """
import sys
sys.path.insert(0, {here!r})
import benchmarks  # of this version; all else is the other's
sys.path[0] = {folder!r}
from benchmarks.versions import answer_turns
answer_turns({module!r})
"""


def compare_versions(module: str, description: str | None) -> None:
    """Prints what `work()` of that module of benchmarks costs both versions: seconds for a turn, and the ratio.

    Each side is a process of its own, with the memory settings of workers; its own and its decoders' CPU time count.
    The command line names a checkout of the earlier version.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the version to compare with")
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    sides = {name: _start(folder, module) for name, folder in (("before", arguments.before), ("now", Path(_HERE)))}
    times: dict[str, list[dict[str, tuple[float, float]]]] = {name: [] for name in sides}
    for turn in range(-1, arguments.turns):
        for name in sorted(sides, reverse=turn % 2 == 1):
            took = _turn(sides[name])
            if turn >= 0:  # the first warms up
                times[name].append(took)
    for side in sides.values():
        side.communicate()
    for part in times["now"][0]:
        for i, what in enumerate(("wall", "CPU")):
            pairs = [(now[part][i], before[part][i]) for before, now in zip(times["before"], times["now"], strict=True)]
            ratios = sorted(now / before for now, before in pairs)
            now, before = (statistics.median(column) for column in zip(*pairs, strict=True))
            spread = f"{len(ratios)} ratios from {ratios[0]:.3f} to {ratios[-1]:.3f}"
            median = statistics.median(ratios)
            print(f"{part}, {what}: {before:.3f} s before, {now:.3f} s now: {median:.3f} times ({spread})")


def _start(folder: Path, module: str) -> subprocess.Popen[str]:
    from pipeline.compute.cluster import KEEP_FREED_MEMORY  # noqa: PLC0415 - here alone `pipeline` is this version's

    code = _SIDE.format(here=_HERE, folder=str(folder.resolve()), module=module)
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | KEEP_FREED_MEMORY,
    )


def _turn(side: subprocess.Popen[str]) -> dict[str, tuple[float, float]]:
    """{part: (wall seconds, CPU seconds)}."""
    assert side.stdin
    assert side.stdout
    side.stdin.write("turn\n")
    side.stdin.flush()
    found = {}
    while line := side.stdout.readline().strip():
        part, wall, cpu = line.split()
        found[part] = float(wall), float(cpu)
    return found


def answer_turns(module: str) -> None:
    """A side: does the work of each of the module's `parts()` once for every line that comes in."""
    parts = importlib.import_module(module).parts()
    for _ in sys.stdin:
        for name, work in parts.items():
            start, cpu = time.perf_counter(), _cpu_s()
            work()
            print(name, time.perf_counter() - start, _cpu_s() - cpu)
        print(flush=True)


def _cpu_s() -> float:
    """Of this process and all that it started, ended or not."""
    here = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in [here, *here.children(recursive=True)])
