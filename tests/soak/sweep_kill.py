"""`make soak-sweep_kill`: sweep, search and retrain, killed (SIGKILL) at ten random moments each, end as undisturbed.

Their tables, genotypes and weights are the same bytes, and what was finished at a kill is never computed again: its
files stay as they are. Prints a line per kill.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import Any

import yaml

from tests.pipeline.run_fixture import make_index, make_workspace

KILLS = 10
CHANCE = SystemRandom()
BATCH_RUNS = 4
SEEDS = tuple(range(14))
SEARCH = {"channels": 4, "epochs": 10, "warmup_epochs": 2, "min_steps_per_epoch": 10, "batch_size": 16}
RETRAIN = {"channels": 4, "epochs": 40, "patience": 40, "batch_size": 16}
GRID = ("--grid", "temperature=1,5", "--grid", "samples=1,5", "--seeds", "14")


@dataclass(frozen=True)
class Command:
    """A command of ours. finished: the folder of its finished runs; results: its files, both in work/."""

    arguments: tuple[str, ...]
    finished: str
    results: str

    def line(self, batch_runs: int = BATCH_RUNS) -> tuple[str, ...]:
        """What starts it, in this process alone and in batches of so many runs."""
        code = (
            f"import pipeline.runs.jobs as b; b.MOST_RUNS['cpu'] = {batch_runs}; from pipeline.cli import main; main()"
        )
        return (sys.executable, "-c", code, *self.arguments, "--workers", "1")

    def batches(self, folder: Path) -> dict[str, int]:
        """{file of a finished batch: when it was written}."""
        found = (folder / "work" / "runs" / self.finished).glob("*.json")
        return {path.name: path.stat().st_mtime_ns for path in found}

    def contents(self, folder: Path) -> dict[str, bytes]:
        """{file: what it holds} of the results."""
        return {path.name: path.read_bytes() for path in sorted((folder / "work").glob(self.results))}

    def kill(self, folder: Path, seconds: float, batches: int, batch_runs: int = BATCH_RUNS) -> None:
        """Starts it and kills it after so many seconds, or when so many batches are finished."""
        process = subprocess.Popen(
            self.line(batch_runs),
            cwd=folder,
            start_new_session=True,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end and len(self.batches(folder)) < batches:
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


SEARCHING = Command(("search",), "searches", "search/*")
RETRAINING = Command(("retrain",), "trainings", "retrain/*")


def sweeping(*grid: str) -> Command:
    """A sweep over this grid."""
    return Command(("sweep", *grid), "searches", "sweep/*.csv")


def main() -> None:
    """Kills, resumes and compares."""
    params = {"seeds": list(SEEDS), "search": SEARCH, "retrain": RETRAIN}
    for command in (sweeping(*GRID), SEARCHING, RETRAINING):
        with tempfile.TemporaryDirectory(prefix="bmnas-soak-") as folder:
            kill_and_compare(Path(folder), command, params, KILLS)


def kill_and_compare(folder: Path, command: Command, params: dict[str, Any], kills: int) -> None:
    """Raises AssertionError unless a command that is killed so often ends as an undisturbed one, repeating nothing."""
    name, calm, rough = command.arguments[0], folder / "calm", folder / "rough"
    make_workspace(calm / "work", make_index(), seeds=params["seeds"])
    (calm / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copytree(calm, rough)
    start = time.monotonic()
    subprocess.run(command.line(), cwd=calm, check=True, capture_output=True)
    whole, batches = time.monotonic() - start, len(command.batches(calm))
    for kill in range(kills):
        kept = command.batches(rough)
        command.kill(rough, CHANCE.uniform(0.3, 1.0) * whole, len(kept) + CHANCE.randint(1, 3))
        at_kill = command.batches(rough)
        assert kept.items() <= at_kill.items(), "a finished batch was written again"
        print(f"{name}, kill {kill + 1}: {len(at_kill)} of {batches} batches were finished", flush=True)
    kept = command.batches(rough)
    last = subprocess.run(command.line(), cwd=rough, check=True, capture_output=True, text=True)
    assert kept.items() <= command.batches(rough).items(), "a finished batch was written again"
    already = re.search(r"(\d+) already done, (\d+) to do", " ".join(last.stderr.split()))
    assert already is not None, last.stderr
    assert len(kept) <= int(already[1]) <= BATCH_RUNS * len(kept), last.stderr
    assert command.contents(rough) == command.contents(calm)
    left = list((rough / "work").rglob("*.tmp"))
    print(
        f"{name}: the last run kept {already[1]} runs, did {already[2]}; the results are the same bytes; "
        f"{len(left)} pieces left behind"
    )


if __name__ == "__main__":
    main()
