"""A search step of R = 64 runs at once, as one graph and with every kernel launched by itself; of one run, launched so;
of one written as the published code writes it, on the same device; and a training step of 64 architectures.
"""

from __future__ import annotations

import os
from typing import TypeVar

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.gpu.measuring import Bench
from benchmarks.search import BATCH, CHANNELS, CONFIG, WIDTHS, dataset, reference_search, repeat
from nas.config import RetrainConfig
from nas.data import Dataset
from nas.searching import Search
from nas.space import Space
from nas.training import Training, fixed_network

RUNS, STEPS, ROUNDS = 64, 10, 5
Repeated = TypeVar("Repeated", Search, Training)


def main() -> None:
    """Measures all in turn."""
    bench = Bench.of_arguments(__doc__)
    runs, steps = bench.count(RUNS, 2), bench.count(STEPS)
    torch.manual_seed(0)
    data = dataset(bench.device)
    together, launched, alone = search(data, runs), launching(search(data, runs)), launching(search(data, 1))
    reference = reference_search(data)
    trained, trained_launched = training(data, runs), launching(training(data, runs))
    taken = bench.in_turn(
        {
            "together": lambda: repeat(lambda: together.step(searching=True), steps),
            "launched": lambda: repeat(lambda: launched.step(searching=True), steps),
            "alone": lambda: repeat(lambda: alone.step(searching=True), steps),
            "reference": lambda: repeat(reference.step, steps),
            "trained": lambda: repeat(trained.step, steps),
            "trained launched": lambda: repeat(trained_launched.step, steps),
        },
        bench.count(ROUNDS),
    )
    step = {name: seconds / steps for name, seconds in taken.items()}
    bench.add(f"step of R = {runs} runs", 1e3 * step["together"], "ms")
    bench.add("as a graph against every kernel by itself", step["launched"] / step["together"], "times", "at least 3")
    bench.add("step of R = 1, every kernel by itself", 1e3 * step["alone"], "ms")
    bench.add("reference-style step", 1e3 * step["reference"], "ms")
    bench.add(f"runs x steps a second, R = {runs}", runs / step["together"], "1/s")
    bench.add(f"the same against R = 1, R = {runs}", runs * step["alone"] / step["together"], "times", "at least 25")
    against = runs * step["reference"] / step["together"]
    bench.add(f"per run and step against the reference-style step, R = {runs}", against, "times", "at least 30")
    bench.add(f"training step of {runs} architectures", 1e3 * step["trained"], "ms")
    bench.add(
        "the same, as a graph against every kernel by itself", step["trained launched"] / step["trained"], "times"
    )
    if bench.device != "cpu":
        bench.add(f"memory, R = {runs} and the others", torch.cuda.max_memory_allocated() / 2**20, "MiB")


def search(data: Dataset, runs: int) -> Search:
    """So many runs at once."""
    return Search(data, [CONFIG] * runs, tuple(range(runs)))


def training(data: Dataset, runs: int) -> Training:
    """So many architectures trained at once, each with minibatches of its own."""
    config = RetrainConfig(channels=CHANNELS, batch_size=BATCH, head=CONFIG.head)
    drawn = Space(tuple(WIDTHS), CONFIG.cells, CONFIG.steps).sample(runs, 0)
    seeds = tuple(range(runs))
    return Training(data, config, fixed_network(data, config, drawn, seeds), seeds)


def launching(of: Repeated) -> Repeated:
    """What never makes a graph of a step."""
    of.captured.stream = None
    return of


if __name__ == "__main__":
    main()
