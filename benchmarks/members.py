"""`make bench-members`: the members of a detector, retrained together, beside one of them alone.

The members have different architectures of two cells of two steps over 4 + 4 layers, and a seed each; they are spread
over a process of one thread for every core, as `bmnas retrain` does it. One alone is one process. Each turn trains
EPOCHS epochs: nothing else of a training depends on how many there are.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Sequence

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import nas
from benchmarks.search import WIDTHS, windows
from benchmarks.side_by_side import compare, print_figures
from nas.space import Space
from pipeline.compute.cluster import KEEP_FREED_MEMORY

EPOCHS, MOST = 10, 32
GOAL = 1 / 2.5


def main() -> None:
    """Measures both in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=8, help="M, networks of the detector, 32 at most")
    given = parser.parse_args()
    os.environ |= KEEP_FREED_MEMORY
    cores = os.cpu_count() or 1
    parts = [range(given.members)[i::cores] for i in range(min(cores, given.members))]
    with multiprocessing.get_context("spawn").Pool(
        len(parts), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        figure = f"{given.members} members on {cores} cores, against one alone ({GOAL:g}: {1 / GOAL:g} times its time)"
        together = compare(
            figure, lambda: pool.map(retrained, parts, chunksize=1), lambda: pool.map(retrained, [(0,)]), goal=GOAL
        )
    print_figures([together])


def retrained(members: Sequence[int]) -> None:
    """Trains these members in this process."""
    genotypes = Space(tuple(WIDTHS), 2, 2).sample(MOST, seed=0)
    nas.retrain(*windows(), [genotypes[m] for m in members], nas.RetrainConfig(epochs=EPOCHS), list(members))


if __name__ == "__main__":
    main()
