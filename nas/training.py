"""What search and retraining share: the optimiser of the weights."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from nas.config import RetrainConfig, SearchConfig
from nas.optimiser import Adam

TrainedConfig = SearchConfig | RetrainConfig


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within the context, what is computed from these parameters needs no gradient of them."""
    held = list(parameters)
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


class WeightOptimiser:
    """Adam with a cosine schedule and warm restarts per run, as torch's CosineAnnealingWarmRestarts."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        configs: TrainedConfig | Sequence[TrainedConfig],
        steps: int,
    ) -> None:
        """configs: one for all runs, or one per run where all parameters are (R, ...); steps: minibatches an epoch."""
        self.configs: list[TrainedConfig]
        if isinstance(configs, SearchConfig | RetrainConfig):
            self.configs = [configs]
            self.adam = Adam(parameters, lr=configs.weight_lr, weight_decay=configs.weight_decay)
        else:
            self.configs = list(configs)
            self.adam = Adam(
                parameters, lr=[c.weight_lr for c in configs], weight_decay=[c.weight_decay for c in configs]
            )
        self.steps, self.done = steps, 0

    def take(
        self, parameters: Iterable[nn.Parameter], places: Sequence[tuple[int, Sequence[int]]]
    ) -> "WeightOptimiser":
        """Return one that goes on for these parameters, each some rows of the parameter at a place here."""
        (config,) = self.configs
        taken = WeightOptimiser(parameters, config, self.steps)
        taken.done = self.done
        held = [(*self.adam.moments[place], list(rows)) for place, rows in places]
        taken.adam.moments = [(mean[rows], square[rows]) for mean, square, rows in held]
        taken.adam.count = self.adam.count
        return taken

    @property
    def lr(self) -> list[float]:
        """The learning rate of every run's next step."""
        return [_annealed(config, self.done / (config.restart_epochs * self.steps)) for config in self.configs]

    def step(self, loss: Tensor) -> None:
        """Move the weights along the gradient of a loss that is summed over the runs."""
        self.adam.set_lr(self.lr)
        self.adam.descend(loss)
        self.done += 1


def _annealed(config: TrainedConfig, cycles: float) -> float:
    """Return the learning rate after so many cycles between warm restarts."""
    swing = (1 + math.cos(math.pi * (cycles % 1.0))) / 2
    return config.weight_lr_min + (config.weight_lr - config.weight_lr_min) * swing
