"""What the measuring parts share: their options, and contenders that take turns on a device."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.gpu.record import Figure, write_figures


@dataclass
class Bench:
    """One part at work. share: of the windows, runs and rounds that it would measure with; a dry run has little."""

    device: str
    share: float
    out: Path
    figures: list[Figure] = field(default_factory=list)

    @classmethod
    def of_arguments(cls, description: str | None) -> Bench:
        """From the command line."""
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--device", required=True)
        parser.add_argument("--share", type=float, required=True)
        parser.add_argument("--out", type=Path, required=True)
        return cls(**vars(parser.parse_args()))

    def count(self, whole: int, least: int = 1) -> int:
        """The share of a number."""
        return max(least, round(self.share * whole))

    def add(self, name: str, value: float, unit: str, goal: str = "") -> None:
        """Keeps a figure."""
        self.figures.append(Figure(name, value, unit, goal))
        write_figures(self.out, self.figures)

    def seconds(self, action: Callable[[], object]) -> float:
        """What it takes, to the end of what it has the device do."""
        self.wait()
        start = time.perf_counter()
        action()
        self.wait()
        return time.perf_counter() - start

    def in_turn(self, contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
        """Median seconds of each over rounds in which all have their turn, after one that does not count."""
        taken: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(rounds + 1):
            for name, action in contenders.items():
                seconds = self.seconds(action)
                if number:
                    taken[name].append(seconds)
        return {name: statistics.median(values) for name, values in taken.items()}

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.device != "cpu":
            torch.cuda.synchronize()
