"""What `make gpu` runs: each part a command, the time that it may take on a GPU, and what a dry run makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

Command = Callable[[str, Path, bool], list[str]]
"""(device, file to write, dry): the arguments of Python."""

SHARE, DRY_SHARE = 0.1, 0.02
"""Of the windows, runs and rounds that benchmarks measure with: `--share` gives another one."""


@dataclass(frozen=True)
class Plan:
    """One part. tests: whether it writes JUnit's XML; else it writes figures."""

    name: str
    title: str
    budget_s: float
    command: Command
    tests: bool = False


def pytest_command(whole: str, small: str) -> Command:
    """The tests of a folder; in a dry run those of one file."""

    def command(device: str, out: Path, dry: bool) -> list[str]:
        # Tests of nas have networks of a few numbers: several processes share the GPU, and the CPU has most to do.
        several = ["-n", "8"] if not dry and find_spec("xdist") and whole == "tests/nas" else []
        options = ["-q", "-p", "no:cacheprovider", "--device", device, f"--junitxml={out}", "-o", "junit_family=xunit1"]
        return ["-m", "pytest", small if dry else whole, *options, *several]

    return command


def bench_command(module: str, share: float | None) -> Command:
    """A module of this folder; share: where it is not --share that decides."""

    def command(device: str, out: Path, dry: bool) -> list[str]:
        of_all = DRY_SHARE if dry else 1.0 if share is None else share
        return ["-m", f"benchmarks.gpu.{module}", "--device", device, "--share", str(of_all), "--out", str(out)]

    return command


def plans(share: float) -> list[Plan]:
    """In the order of their worth: what comes last is what a machine that is taken away early loses."""
    return [
        Plan("agreement", "the device gives what the CPU gives", 110, pytest_command("tests/gpu", "tests/gpu"), True),
        Plan("search", "a search step", 50, bench_command("search", None)),
        Plan("features", "the features stage", 60, bench_command("features", None)),
        Plan("many", "many runs at once", 120, bench_command("many", share)),
        Plan("nas", "every test of nas", 120, pytest_command("tests/nas", "tests/nas/test_layers.py"), True),
    ]
