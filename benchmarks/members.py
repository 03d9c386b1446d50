"""`make bench-members`: the members of a detector, retrained together, beside one of them alone.

The members have different architectures of 4 + 4 layers and a seed each; they are spread over a process of one thread
for every core, as `bmnas retrain` does it. One alone is one process. Each turn trains EPOCHS epochs: nothing else of a
training depends on how many there are. Prints a table and writes benchmarks/results/members.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Sequence

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import nas
from benchmarks.side_by_side import compare, publish
from nas.space import Space
from pipeline.compute.cluster import KEEP_FREED_MEMORY

WIDTHS = {f"{modality}/l{i}": 64 * 2**i for modality in ("visual", "audio") for i in range(4)}
WINDOWS, LENGTH = 600, 8
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
    publish("members", [together])


def retrained(members: Sequence[int]) -> None:
    """Trains these members in this process."""
    source = torch.Generator().manual_seed(0)
    features = {name: torch.randn(WINDOWS, LENGTH, width, generator=source).half() for name, width in WIDTHS.items()}
    split = ["train", "train", "train", "val", "test"] * (WINDOWS // 5)
    labels = torch.randint(0, 2, (WINDOWS,), generator=source)
    genotypes = Space(tuple(features)).sample(MOST, seed=0)
    nas.retrain(
        features, labels, split, [genotypes[m] for m in members], nas.RetrainConfig(epochs=EPOCHS), list(members)
    )


if __name__ == "__main__":
    main()
