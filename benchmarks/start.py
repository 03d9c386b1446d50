"""`make bench-start`: how long `bmnas search` takes to its first step, beside what torch takes to be imported.

A tiny cache, searched in the command's own process (--workers 1). Every process is new; ROUNDS times in turn one
imports torch alone and one searches. Medians stand side by side, also in seconds of the processor, which do not depend
on what else the machine does. The goal is that a search begins within GOAL_SECONDS of torch's own import. Prints a
table and writes benchmarks/results/start.json.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.pipeline.run_fixture import make_index, make_workspace
from tests.pipeline.small_experiments import SEARCH

ROOT = Path(__file__).parents[1]
ROUNDS, GOAL_SECONDS = 5, 3.0
FIRST_STEP = """
import os, sys, time, torch
imported = time.time(), time.process_time()

def first(*_, **__):
    print(*imported, time.time(), time.process_time(), flush=True)
    os._exit(0)

torch.Tensor.backward = torch.autograd.grad = first
from pipeline.cli import main
sys.argv = ["bmnas", "search", "--params", sys.argv[1], "--work", sys.argv[2], "--workers", "1"]
main()
"""


def main() -> None:
    """The table and the file."""
    with tempfile.TemporaryDirectory(prefix="bmnas-start-") as folder:
        workspace, params = make_workspace(Path(folder) / "work", make_index()), Path(folder) / "params.yaml"
        params.write_text(json.dumps({"search": SEARCH, "compute": {"device": "cpu"}}))
        rounds = [_round(params, workspace.root) for _ in range(ROUNDS)]
    found = {name: [statistics.median(row[name][i] for row in rounds) for i in (0, 1)] for name in rounds[0]}
    table = Table("median", "seconds", "of the processor")
    for name, (wall, processor) in found.items():
        table.add_row(name, f"{wall:.2f}", f"{processor:.2f}")
    Console().print(table, f"goal: at most {GOAL_SECONDS:g} s beyond torch; {os.cpu_count()} cores", sep="\n")
    path = ROOT / "benchmarks" / "results" / "start.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        json.dumps({"rounds": ROUNDS, "goal_seconds": GOAL_SECONDS, "seconds, of the processor": found}, indent=2)
        + "\n"
    )


def _round(params: Path, work: Path) -> dict[str, tuple[float, float]]:
    """(Seconds, of the processor) of one process that imports torch, and of one that searches."""
    alone = _run("import torch, time; print(time.time(), time.process_time())")
    imported, cpu_imported, begun, cpu_begun = _run(FIRST_STEP, str(params), str(work))
    return {
        "import torch, alone": (alone[0], alone[1]),
        "import torch, in a search": (imported, cpu_imported),
        "from there to its first step": (begun - imported, cpu_begun - cpu_imported),
    }


def _run(code: str, *arguments: str) -> list[float]:
    """What the process printed: clock times, as seconds from its start, and processor times in turn."""
    start = time.time()
    command = [sys.executable, "-c", code, *arguments]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()  # noqa: S603
    return [float(word) - start * (i % 2 == 0) for i, word in enumerate(said)]


if __name__ == "__main__":
    main()
