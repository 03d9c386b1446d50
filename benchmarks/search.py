"""`make bench-search`: the search step against a sequential one written as the published code writes it, against our
own single run, against single runs on both cores, and against the same step with the backbones in the loop.

A step is a weight step on train and an architecture step on val. Everything is measured in turn in one run; a figure
is a median. Worker processes have one thread each and keep freed memory, as those of `bmnas sweep`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rich.console import Console
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import nas
from benchmarks.reference_step import ReferenceNetwork, ReferenceSearch
from benchmarks.side_by_side import Figure, in_turn, print_figures
from nas.data import Dataset, prepare
from nas.searching import Search
from pipeline.compute.cluster import KEEP_FREED_MEMORY

WIDTHS = {f"{modality}/l{i}": 64 * 2**i for modality in ("visual", "audio") for i in range(4)}
WINDOWS, LENGTH, BATCH, CHANNELS = 512, 8, 16, 128
CONFIG = nas.SearchConfig(
    space="bmnas",
    estimator="st_gumbel",
    temperature=10.0,
    samples=15,
    weight_mix="samples",
    channels=CHANNELS,
    batch_size=BATCH,
    dropout=0.2,
    head="flatten",
    cells=2,
    steps=2,
)
FRAMES, PIXELS, MELS = 8, 224, 128


def main() -> None:
    """Measures everything in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=16, help="R, runs at once over all worker processes")
    parser.add_argument("--steps", type=int, default=3, help="steps per measurement")
    parser.add_argument("--skip-backbones", action="store_true", help="leave out the slowest measurement")
    parser.add_argument("--profile", action="store_true", help="only print where the time of a step goes")
    arguments = parser.parse_args()
    if arguments.profile:
        print_profile(arguments.runs)
        return
    torch.manual_seed(0)
    cores = os.cpu_count() or 1
    with Workers(cores, arguments.runs // cores) as batched, Workers(cores, 1) as singles:
        alone, reference = OneProcess(1), reference_search(dataset())
        contenders: dict[str, Callable[[], None]] = {
            "batched": lambda: batched.step(arguments.steps),
            "singles": lambda: singles.step(arguments.steps),
        }
        for threads in range(1, cores + 1):
            contenders[f"alone {threads}"] = with_threads(threads, lambda: alone.step(arguments.steps))
            contenders[f"reference {threads}"] = with_threads(threads, lambda: repeat(reference.step, arguments.steps))
        seconds = {name: value / arguments.steps for name, value in in_turn(contenders).items()}
        if not arguments.skip_backbones:
            loop = backbones()
            seconds["backbones"] = in_turn({"": with_threads(cores, lambda: repeat(loop, 2))})[""]
        memory = batched.memory()
    print_figures(figures(seconds, arguments.runs, cores))
    print_memory(memory, arguments.runs // cores)


def figures(seconds: dict[str, float], runs: int, cores: int) -> list[Figure]:
    """Returns the table's rows; each side has the number of threads that is best for it."""
    alone = min(value for name, value in seconds.items() if name.startswith("alone"))
    reference = min(value for name, value in seconds.items() if name.startswith("reference"))
    per_run, single = seconds["batched"] / runs, seconds["singles"] / cores
    rows = [
        (f"{runs} runs at once, per run, against a reference-style step", per_run, reference, 8.0),
        (f"{runs} runs at once, per run, against our own single run", per_run, alone, 4.5),
        (f"{runs} runs at once, per run, against {cores} processes of single runs", per_run, single, 3.0),
        ("one run against a reference-style step", alone, reference, 2.0),
    ]
    if "backbones" in seconds:
        loop = seconds["backbones"]
        rows.append(("one run against one with two ResNet-34 in the loop", alone, loop + alone, 600.0))
        rows.append((f"{runs} runs at once, per run, against the same", per_run, loop + alone, 1500.0))
    Console().print({name: f"{value * 1e3:.1f} ms" for name, value in seconds.items()})
    return [Figure(name, goal, ours, theirs) for name, ours, theirs, goal in rows]


class OneProcess:
    """R runs of the search in this process."""

    def __init__(self, runs: int) -> None:
        self.search = Search(dataset(), [CONFIG] * runs, tuple(range(runs)))
        self.step(2)  # what a run holds, it holds then

    def step(self, count: int) -> None:
        """Does weight and architecture steps in turn."""
        for _ in range(count):
            self.search.step(searching=True)


class Workers:
    """Processes of one thread, each with its own runs."""

    def __init__(self, processes: int, runs: int) -> None:
        context = multiprocessing.get_context("spawn")
        os.environ |= KEEP_FREED_MEMORY
        self.pipes, self.processes = [], []
        for _ in range(processes):
            here, there = context.Pipe()
            process = context.Process(target=work, args=(there, runs), daemon=True)
            process.start()
            self.pipes.append(here)
            self.processes.append(process)

    def __enter__(self) -> Workers:
        self.memory()  # returns once all have started
        return self

    def __exit__(self, *_: object) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(None)
            process.join()

    def step(self, count: int) -> None:
        """Has every process do so many steps, and waits for the last."""
        for pipe in self.pipes:
            pipe.send(count)
        for pipe in self.pipes:
            pipe.recv()

    def memory(self) -> tuple[int, int, int]:
        """Returns (bytes before there were runs, bytes now, bytes of the parameters) of the first process."""
        for pipe in self.pipes:
            pipe.send(0)
        first, *_ = [pipe.recv() for pipe in self.pipes]
        return first


def work(pipe: Connection, runs: int) -> None:
    """Serves a `Workers`: a number of steps to do, 0 for the memory, None to end."""
    torch.set_num_threads(1)
    OneProcess(1)  # what any run loads once
    before = peak_bytes()
    mine = OneProcess(runs)
    after = peak_bytes()
    parameters = sum(p.numel() * p.element_size() for p in mine.search.supernet.parameters())
    while (count := pipe.recv()) is not None:
        mine.step(count)
        pipe.send((before, after, parameters))


def peak_bytes() -> int:
    """Returns the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def print_memory(memory: tuple[int, int, int], runs: int) -> None:
    """Prints what a further run needs: `runs` were added to one whose own memory was free again or in use."""
    before, after, parameters = memory
    each = (after - before) / max(runs - 1, 1) / 2**20
    own = parameters / runs / 2**20
    Console().print(
        f"memory per additional run: {each:.1f} MiB; its parameters {own:.1f} MiB; of that weights and two moments "
        f"{3 * own:.1f} MiB, activations and the gradients that a backward pass holds {each - 3 * own:.1f} MiB"
    )


def print_profile(runs: int) -> None:
    """Prints the operations of a step that take the most time, one thread."""
    torch.set_num_threads(1)
    mine = OneProcess(runs)
    with profile(activities=[ProfilerActivity.CPU]) as measured:
        mine.step(3)
    print(measured.key_averages().table(sort_by="self_cpu_time_total", row_limit=40, max_name_column_width=45))


def windows() -> tuple[dict[str, Tensor], Tensor, list[str]]:
    """Returns random features of two ResNet-34 in half precision as in a cache, labels, and a split: train and val."""
    source = torch.Generator().manual_seed(0)
    features = {name: torch.randn(WINDOWS, LENGTH, width, generator=source).half() for name, width in WIDTHS.items()}
    return features, torch.arange(WINDOWS) % 2, ["train"] * (WINDOWS // 2) + ["val"] * (WINDOWS // 2)


def dataset(device: str | None = None) -> Dataset:
    """Returns them as a search takes them, on the device."""
    return prepare(*windows(), device, reads="train_val")


def reference_search(data: Dataset) -> ReferenceSearch:
    """Returns one reference-style search on the same features."""
    features = [x[0].float().transpose(1, 2).contiguous() for x in data.features.values()]
    network = ReferenceNetwork(
        list(WIDTHS.values()), cells=2, steps=2, channels=CHANNELS, length=LENGTH, dropout=CONFIG.dropout
    )
    return ReferenceSearch(
        features,
        data.labels,
        train=data.train,
        val=data.val,
        batch_size=BATCH,
        temperature=CONFIG.temperature,
        samples=CONFIG.samples,
        network=network.to(data.device),
    )


def backbones() -> Callable[[], None]:
    """Returns the frozen forward pass of one minibatch: ResNet-34 on 8 frames a window, another on spectrograms."""
    from torchvision.models import resnet34  # noqa: PLC0415 - slow to import, and not always needed

    visual, audio = resnet34(weights=None).eval(), resnet34(weights=None).eval()
    frames, sound = torch.randn(BATCH * FRAMES, 3, PIXELS, PIXELS), torch.randn(BATCH, 3, MELS, MELS)

    @torch.no_grad()
    def forward() -> None:
        for part in frames.split(32):
            visual(part)
        audio(sound)

    return forward


def with_threads(count: int, action: Callable[[], None]) -> Callable[[], None]:
    """Returns the action, done with so many threads of torch."""

    def done() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        action()
        torch.set_num_threads(before)

    return done


def repeat(action: Callable[[], object], count: int) -> None:
    """Does an action `count` times."""
    for _ in range(count):
        action()


if __name__ == "__main__":
    main()
