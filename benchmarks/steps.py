"""`python -m benchmarks.steps --before CHECKOUT`: steps of searches and trainings by this version and an earlier one.

One thread; needs no files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import nas
from benchmarks.search import CONFIG, WIDTHS, dataset, reference_search, repeat, windows
from benchmarks.versions import compare_versions
from nas.scoring import best_of
from nas.searching import Search
from nas.space import Space

STEPS = 5


def parts() -> dict[str, Callable[[], object]]:
    """Some steps of each kind. `published`: the settings of the paper; `default`: ours; a number: runs at once."""
    torch.set_num_threads(1)
    found: dict[str, Callable[[], object]] = {"reference": partial(repeat, reference_search(dataset()).step, STEPS)}
    for name, config in (("published", CONFIG), ("default", nas.SearchConfig())):
        for runs in (1, 8):
            search = Search(dataset(), [config] * runs, tuple(range(runs)))
            found[f"{name}-{runs}"] = partial(repeat, partial(search.step, searching=True), STEPS)
    found["candidates"] = partial(candidates, Search(dataset(), [nas.SearchConfig()], (0,)))
    found["retrain-9"] = retrain
    return found


def candidates(search: Search) -> None:
    """Judges 128 architectures by one run's weights."""
    drawn = search.space.sample(64, 0)
    best_of(drawn, search.space, search.data, search.supernet.fusion.state_dict(), count=128)


def retrain() -> None:
    """Trains nine architectures for two epochs, 16 steps."""
    nas.retrain(*windows(), Space(tuple(WIDTHS), 2, 2).sample(9, 0), nas.RetrainConfig(epochs=2), (0,) * 9)


if __name__ == "__main__":
    compare_versions("benchmarks.steps", __doc__)
