"""`python -m benchmarks.wall --before FOLDER`: what reading costs now and in an earlier version, in one run.

FOLDER is a checkout of that version. Each side is a process of its own that reads the same clips, sound and pictures as
the stages do, in turns; its own and its decoders' CPU time count.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.real_clips import DEVELOPMENT, clip_path, listed_clips
from pipeline import media


def main() -> None:
    """Prints both sides' seconds for a turn, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the version to compare with")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    listed_clips()
    if arguments.side:
        _answer_turns()
        return
    sides = {name: _start(folder) for name, folder in (("before", arguments.before), ("now", Path.cwd()))}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(-1, arguments.turns):
        for name in sorted(sides, reverse=turn % 2 == 1):
            took = _turn(sides[name])
            if turn >= 0:  # the first warms up
                times[name].append(took)
    for side in sides.values():
        side.communicate()
    for i, what in enumerate(("wall", "CPU")):
        ratios = sorted(now[i] / before[i] for before, now in zip(times["before"], times["now"], strict=True))
        before, now = (statistics.median(turn[i] for turn in turns) for turns in times.values())
        spread = f"{len(ratios)} ratios from {ratios[0]:.3f} to {ratios[-1]:.3f}"
        print(f"{what}: {before:.3f} s before, {now:.3f} s now: {statistics.median(ratios):.3f} times ({spread})")


def _start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--side", "--before", "."]
    environment = {**os.environ, "PYTHONPATH": str(folder.resolve())}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603


def _turn(side: subprocess.Popen[str]) -> tuple[float, float]:
    """(wall seconds, CPU seconds) of reading every clip."""
    assert side.stdin
    assert side.stdout
    side.stdin.write("turn\n")
    side.stdin.flush()
    wall, cpu = side.stdout.readline().split()
    return float(wall), float(cpu)


def _answer_turns() -> None:
    clips = [clip_path(name) for name in DEVELOPMENT[::3]]
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), _cpu_s()
        for clip in clips:
            _read(clip)
        print(time.perf_counter() - start, _cpu_s() - cpu, flush=True)


def _read(clip: Path) -> None:
    with contextlib.suppress(media.NoAudioError):
        media.read_sound(clip, sample_rate_hz=16000)
    found = media.probe(clip)
    with media.open_video(
        clip, full_at_s=[0.5, 1.0, 1.5], small_height_px=min(360, found.height_px), found=found
    ) as it:
        for _ in it.small():
            pass
        it.full()


def _cpu_s() -> float:
    """Of this process and all that it started, ended or not."""
    here = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in [here, *here.children(recursive=True)])


if __name__ == "__main__":
    main()
