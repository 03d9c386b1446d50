"""`make bench-oracle`: what batches of runs save, on the cache of a finished `work/` (make demo).

1. Architectures per minute of `bmnas oracle` (all workers, started anew, finished work kept) against `nas.retrain` one
   by one in one process, all cores its own: TRAINED architectures of one cell, trained as params.yaml says.
2. The ablation over lambda and M (4 x 4 points, SEEDS seeds) of `bmnas sweep` against single `bmnas search` commands.
   `--singles` of them, at points from the first to the last of the grid, are timed; the rest is extrapolated by their
   mean. A single command also searches picture alone and sound alone, as it always does; the second figure leaves
   that out and counts only what a search of all layers takes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import yaml

import nas
from benchmarks.side_by_side import Figure, print_figures
from nas.space import Space
from pipeline.experiments.oracle import Question, run_oracle
from pipeline.params import Params, load_params
from pipeline.runs.cache import Source, Windows
from pipeline.workspace import Workspace

TRAINED, ALONE = 128, 8
EPOCHS = 4
"""Of the ablation's searches."""
VALUES, SEEDS = (1, 5, 10, 15), 5
POINTS = tuple(itertools.product(VALUES, VALUES))
LISTED = ",".join(map(str, VALUES))
GRID = ("--grid", f"temperature={LISTED}", "--grid", f"samples={LISTED}", "--seeds", str(SEEDS))
THREADS = range(1, (os.cpu_count() or 1) + 1)
"""What is done one by one has the number of torch's threads that is best for it."""
BMNAS = (sys.executable, "-m", "pipeline.cli")


def main() -> None:
    """Measures both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--singles", type=int, default=2, help="single search commands to time, 16 at most")
    singles = parser.parse_args().singles
    params = load_params(Path("params.yaml"))
    with tempfile.TemporaryDirectory(prefix="bmnas-bench-") as folder:
        workspace = Workspace(Path(folder) / "work")
        workspace.root.mkdir()
        workspace.features.symlink_to(Path("work/features.zarr").resolve())
        print_figures([_oracle(workspace, params), *_ablation(workspace, params, singles)])


def _oracle(workspace: Workspace, params: Params) -> Figure:
    config = params.retrain
    start = time.perf_counter()
    run_oracle(workspace, params, Question(1, 1, "slots", (0,), TRAINED))
    ours = (time.perf_counter() - start) / TRAINED
    windows = Source.of(workspace, params).windows()
    genotypes = Space(tuple(windows.features)).sample(ALONE, 1)
    data = {genotype: _learnt(windows, genotype.layers()) for genotype in genotypes}
    alone = [
        statistics.median(_seconds(threads, partial(nas.retrain, *of, g, config, (0,))) for g, of in data.items())
        for threads in THREADS
    ]
    title = (
        f"oracle, {TRAINED} architectures, C = {config.channels}, {config.epochs} epochs: {60 / ours:.0f} a minute, "
        "against one by one with nas.retrain"
    )
    return Figure(title, 6.0, ours, min(alone))


def _ablation(workspace: Workspace, params: Params, singles: int) -> list[Figure]:
    """The sweep's command against single search commands, both with a search of EPOCHS epochs."""
    scaled = params.search.model_copy(update={"epochs": EPOCHS, "warmup_epochs": 1})
    ours = _command("sweep", *GRID, *_options(workspace, params, scaled))
    seconds = []
    for place in range(singles):
        temperature, samples = POINTS[place * (len(POINTS) - 1) // max(singles - 1, 1)]
        point = scaled.model_copy(update={"temperature": float(temperature), "samples": samples})
        seconds.append(_command("search", *_options(workspace, params, point)))
    runs = len(POINTS) * SEEDS
    windows = Source.of(workspace, params).windows()
    data = _learnt(windows, windows.features)
    alone = min(_seconds(threads, partial(nas.search, *data, scaled, (0,))) for threads in THREADS)
    title = f"{runs}-run ablation, C = {scaled.channels}, {EPOCHS} epochs, by `bmnas sweep`, against "
    commands = f"{title}{runs} `bmnas search` commands (extrapolated from {singles})"
    return [
        Figure(commands, 8.0, ours, runs * statistics.mean(seconds)),
        Figure(f"{title}{runs} single nas.search calls in one process (from 1)", 8.0, ours, runs * alone),
    ]


def _options(workspace: Workspace, params: Params, search: nas.SearchConfig) -> tuple[str, ...]:
    """The options of a command with these parameters and one seed."""
    content = params.model_dump(mode="json") | {"search": search.model_dump(mode="json"), "seeds": [0]}
    file = workspace.root.parent / "params.yaml"
    file.write_text(yaml.safe_dump(content))
    return ("--params", str(file), "--work", str(workspace.root))


def _command(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([*BMNAS, *arguments], check=True, capture_output=True)  # noqa: S603 - our own command
    return time.perf_counter() - start


def _learnt(windows: Windows, layers: Iterable[str]) -> tuple[dict[str, torch.Tensor], Any, list[str]]:
    """What the stages train on, pseudo-fakes and all."""
    learnt = windows.to_train_on(layers)
    return learnt.features, learnt.labels, learnt.split


def _seconds(threads: int, action: Callable[[], object]) -> float:
    """Seconds that an action takes with so many threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    start = time.perf_counter()
    action()
    taken = time.perf_counter() - start
    torch.set_num_threads(before)
    return taken


if __name__ == "__main__":
    main()
