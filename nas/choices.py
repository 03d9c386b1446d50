"""Choosers: how the runs of one batch turn logits into mixing weights, each by its own estimator and noise."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nas.config import EstimatorName, SearchConfig
from nas.estimators import ESTIMATORS, draws
from nas.random import Streams


class Chooser:
    """Makes mixing weights for the runs that share an estimator and a number of samples."""

    def __init__(
        self, estimator: EstimatorName, samples: int, runs: Sequence[int], streams: Streams, temperatures: list[float]
    ) -> None:
        """runs: which of the R runs; streams, temperatures: theirs, in that order."""
        self.estimator = ESTIMATORS[estimator]
        self.draws = draws(estimator, samples)
        self.runs = torch.tensor(runs, device=streams.device)
        self.streams = streams
        self.temperature = torch.tensor(temperatures, device=streams.device)

    def choose(self, logits: Sequence[Tensor], noise: Tensor) -> list[Tensor]:
        """Return weights (runs, ...) out of logits (runs, ...) per parameter, noise: (draws, runs, all logits)."""
        sizes = [parameter[0].numel() for parameter in logits]
        return [
            self.estimator(
                parameter,
                part.reshape(-1, *parameter.shape),
                self.temperature.view(-1, *[1] * (parameter.ndim - 1)),
            )
            for parameter, part in zip(logits, torch.split(noise, sizes, dim=2), strict=True)
        ]


class Choosers:
    """The choosers of all R runs, for one use: as few as there are pairs of estimator and number of samples."""

    def __init__(
        self, configs: Sequence[SearchConfig], seeds: Sequence[int], device: torch.device, *, of_weights: bool = False
    ) -> None:
        """of_weights: for weight steps, where `weight_mix: expected` reads softmax(theta), the mean of all draws."""
        self.configs = configs
        groups: dict[tuple[EstimatorName, int], list[int]] = {}
        for run, config in enumerate(configs):
            mean = of_weights and config.weight_mix == "expected"
            groups.setdefault(("softmax", 1) if mean else (config.estimator, config.samples), []).append(run)
        use = "weight choices" if of_weights else "choices"
        self.groups = [
            Chooser(
                estimator,
                samples,
                runs,
                Streams([seeds[run] for run in runs], use, device),
                [configs[run].temperature for run in runs],
            )
            for (estimator, samples), runs in groups.items()
        ]
        self.back = torch.argsort(torch.cat([group.runs for group in self.groups]))

    def anneal(self, share: float) -> None:
        """Set every run's temperature to that of its schedule after this share of the search."""
        for group in self.groups:
            values = [annealed(self.configs[run], share) for run in group.runs.tolist()]
            group.temperature.copy_(torch.tensor(values))

    def draw(self, size: int) -> list[Tensor]:
        """Return noise for one choice of `size` logits in every run, as `choose` takes it."""
        return [group.streams.exponential((group.draws, size)).transpose(0, 1) for group in self.groups]

    def choose(self, logits: Sequence[Tensor], noise: Sequence[Tensor]) -> list[Tensor]:
        """Return weights (R, ...) out of logits (R, ...) per parameter."""
        if len(self.groups) == 1:
            return self.groups[0].choose(logits, noise[0])
        parts = [
            group.choose([parameter[group.runs] for parameter in logits], drawn)
            for group, drawn in zip(self.groups, noise, strict=True)
        ]
        return [torch.cat(of_parameter)[self.back] for of_parameter in zip(*parts, strict=True)]


def annealed(config: SearchConfig, share: float) -> float:
    """Return the temperature after a share of the search, 0 to 1, of the epochs that train the architecture."""
    start, end = config.temperature, config.temperature_end
    if end is None or config.temperature_schedule == "constant":
        return start
    if config.temperature_schedule == "exponential":
        return float(start * (end / start) ** share)
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
