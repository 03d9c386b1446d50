"""`make soak-sweep_kill`: a sweep killed (SIGKILL) at ten random moments ends with the undisturbed sweep's table.

What was finished at a kill is never computed again: its files stay as they are. Prints a line per kill.
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
from pathlib import Path
from random import SystemRandom

import pandas as pd
import yaml

from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import make_index, make_workspace

KILLS = 10
CHANCE = SystemRandom()
BATCH_RUNS = 4
SEARCH = {"channels": 4, "epochs": 10, "warmup_epochs": 2, "min_steps_per_epoch": 10, "batch_size": 16}
GRID = ("--grid", "temperature=1,5", "--grid", "samples=1,5", "--seeds", "14", "--workers", "1")
COMMAND = (
    sys.executable,
    "-c",
    f"import pipeline.runs.jobs as b; b.MOST_RUNS['cpu'] = {BATCH_RUNS}; from pipeline.cli import main; main()",
    "sweep",
)


def main() -> None:
    """Kills, resumes and compares."""
    with tempfile.TemporaryDirectory(prefix="bmnas-soak-") as folder:
        kill_and_compare(Path(folder), SEARCH, GRID, KILLS)


def kill_and_compare(folder: Path, search: dict[str, int], grid: tuple[str, ...], kills: int) -> None:
    """Raises AssertionError unless a sweep that is killed so often ends as an undisturbed one, repeating nothing."""
    calm, rough = folder / "calm", folder / "rough"
    make_workspace(calm / "work", make_index())
    (calm / "params.yaml").write_text(yaml.safe_dump({"search": search}))
    shutil.copytree(calm, rough)
    start = time.monotonic()
    subprocess.run([*COMMAND, *grid], cwd=calm, check=True, capture_output=True)
    whole = time.monotonic() - start
    batches = len(_finished(calm))
    for kill in range(kills):
        kept = _finished(rough)
        _killed_at(rough, grid, CHANCE.uniform(0.3, 1.0) * whole, len(kept) + CHANCE.randint(1, 3))
        at_kill = _finished(rough)
        assert kept.items() <= at_kill.items(), "a finished batch was written again"
        print(f"kill {kill + 1}: {len(at_kill)} of {batches} batches were finished", flush=True)
    kept = _finished(rough)
    last = subprocess.run([*COMMAND, *grid], cwd=rough, check=True, capture_output=True, text=True)
    assert kept.items() <= _finished(rough).items(), "a finished batch was written again"
    already = re.search(r"(\d+) already done, (\d+) to do", " ".join(last.stderr.split()))
    assert already is not None, last.stderr
    assert int(already[1]) == min(BATCH_RUNS * len(kept), int(already[1]) + int(already[2]))
    one, two = (pd.read_csv(Workspace(path / "work").sweep / "sweep.csv") for path in (calm, rough))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    left = list((rough / "work" / "sweep").rglob("*.tmp"))
    print(
        f"the last run kept {already[1]} runs, did {already[2]}; the tables are equal; {len(left)} pieces left behind"
    )


def _killed_at(folder: Path, grid: tuple[str, ...], seconds: float, batches: int) -> None:
    """Starts the sweep and kills it after so many seconds, or when so many batches are finished."""
    process = subprocess.Popen(
        [*COMMAND, *grid], cwd=folder, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end and len(_finished(folder)) < batches:
        time.sleep(0.01)
    time.sleep(CHANCE.uniform(0, 0.2))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _finished(folder: Path) -> dict[str, int]:
    """{file of a finished batch: when it was written}."""
    found = (folder / "work" / "sweep" / "searches").glob("*.json")
    return {path.name: path.stat().st_mtime_ns for path in found if path.name != "plan.json"}


if __name__ == "__main__":
    main()
