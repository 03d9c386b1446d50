"""Adam over a runs axis, every run with settings of its own, and the schedule of the weights."""

import math
from collections.abc import Iterable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.config import RetrainConfig, SearchConfig

EPSILON = 1e-8
LANES = 16
"""Runs are padded to a multiple of so many numbers: torch's kernel rounds a tensor's last ones in another way."""
PARTS, FEW = 8, 2**20
"""A backward pass holds about 1 / PARTS of all gradients at a time, or FEW numbers where that is more."""

TrainedConfig = SearchConfig | RetrainConfig


class Adam:
    """torch.optim.Adam for R runs at once, as if each run had its own; the runs of equal settings are moved together.

    Create it on the final device, and set values by `load_state_dict` or `copy_` from then on.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: Sequence[float | Tensor],
        betas: Sequence[tuple[float, float]],
        weight_decay: Sequence[float],
    ) -> None:
        """parameters: (R, ...) each; lr, betas, weight_decay: one per run.

        A single one serves all runs: the parameters then need no common axis. A rate that changes is a tensor, one for
        all runs that have it, as `WeightOptimiser` makes it.
        """
        self.parameters = list(parameters)
        settings = [
            (id(rate) if isinstance(rate, Tensor) else rate, *others)
            for rate, *others in zip(lr, betas, weight_decay, strict=True)
        ]
        alike = [[r for r, of_run in enumerate(settings) if of_run == one] for one in dict.fromkeys(settings)]
        self.groups = [(lr[runs[0]], betas[runs[0]], weight_decay[runs[0]], runs) for runs in alike]
        self.runs = len(settings)
        self.padding = [-p[0].numel() % LANES for p in self.parameters]
        self.moments = [
            (torch.zeros_like(padded), torch.zeros_like(padded))
            for padded in map(_padded, self.parameters, self.padding)
        ]
        self.count = torch.zeros((), device=self.parameters[0].device)
        self.most_held = max(sum(p.numel() for p in self.parameters) // PARTS, FEW)
        self.held: dict[int, Tensor] = {}
        self.numbers_held = 0

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters by their gradients, one (R, ...) per parameter."""
        self.count += 1
        self._move(dict(enumerate(gradients)))

    def descend(self, loss: Tensor) -> None:
        """Move the parameters along the gradient of a loss, each soon after its gradient is there.

        The gradients of many parameters are never held all at once.
        """
        self.count += 1
        self.held, self.numbers_held = {}, 0
        hooks = [
            parameter.register_post_accumulate_grad_hook(partial(self._hold, place))  # type: ignore[no-untyped-call]
            for place, parameter in enumerate(self.parameters)
        ]
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        finally:
            for hook in hooks:
                hook.remove()
        self._move_held()

    def _hold(self, place: int, parameter: Tensor) -> None:
        """Take a parameter's gradient; move what is held where that is enough."""
        if parameter.grad is not None:
            self.numbers_held += parameter.numel()
            self.held[place], parameter.grad = parameter.grad, None
        if self.numbers_held > self.most_held:
            self._move_held()

    def _move_held(self) -> None:
        self._move(self.held)
        self.held, self.numbers_held = {}, 0

    @torch.no_grad()
    def _move(self, gradients: dict[int, Tensor]) -> None:
        """Move the parameters of the given places by their gradients."""
        held = [
            (_padded(self.parameters[i], self.padding[i]), _padded(g, self.padding[i]), *self.moments[i])
            for i, g in gradients.items()
        ]
        for lr, (beta1, beta2), weight_decay, alike in self.groups:
            rows = held if len(alike) == self.runs else [tuple(x[r] for x in four) for r in alike for four in held]
            if not rows:
                continue
            parameters, of_them, means, squares = (list(column) for column in zip(*rows, strict=True))
            torch._fused_adam_(
                parameters,
                of_them,
                means,
                squares,
                [],
                [self.count] * len(rows),
                lr=lr,
                beta1=beta1,
                beta2=beta2,
                weight_decay=weight_decay,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )
        for i, (moved, *_) in zip(gradients, held, strict=True):
            if self.padding[i]:
                parameter = self.parameters[i]
                parameter.copy_(moved[:, : -self.padding[i]].view_as(parameter))


def _padded(x: Tensor, zeros: int) -> Tensor:
    """Return x: (R, ...) in one piece, as (R, n) with so many zeros behind each run where that is any."""
    return F.pad(x.detach().flatten(1), (0, zeros)) if zeros else x.contiguous()


class WeightOptimiser:
    """Adam with a cosine schedule and warm restarts per run, as torch's CosineAnnealingWarmRestarts."""

    def __init__(self, parameters: Iterable[nn.Parameter], configs: Sequence[TrainedConfig], steps: int) -> None:
        """configs: one for all runs, or one per run where all parameters are (R, ...); steps: minibatches an epoch."""
        self.configs, self.steps, self.done = configs, steps, 0
        weights = list(parameters)
        # As the fused kernel reads a rate: on a GPU in single precision only, on the CPU in that of a number of Python.
        precision = torch.float64 if weights[0].is_cpu else torch.float32
        self.rates = {
            span: torch.zeros((), dtype=precision, device=weights[0].device) for span in map(self._span, configs)
        }
        self.adam = Adam(
            weights,
            lr=[self.rates[self._span(config)] for config in configs],
            betas=[(0.9, 0.999)] * len(configs),
            weight_decay=[config.weight_decay for config in configs],
        )

    def take(
        self, parameters: Iterable[nn.Parameter], places: Sequence[tuple[int, Sequence[int]]]
    ) -> "WeightOptimiser":
        """Return one that goes on for these parameters, each some rows of the parameter at a place here."""
        taken = WeightOptimiser(parameters, self.configs, self.steps)
        taken.done = self.done
        held = [(*self.adam.moments[place], list(rows)) for place, rows in places]
        taken.adam.moments = [(mean[rows], square[rows]) for mean, square, rows in held]
        taken.adam.count = self.adam.count
        return taken

    @staticmethod
    def _span(config: TrainedConfig) -> tuple[float, float, int]:
        return config.weight_lr, config.weight_lr_min, config.restart_epochs

    def next(self) -> None:
        """Set the learning rates of the next step, which are the schedule's."""
        for (most, least, epochs), rate in self.rates.items():
            cycles = self.done / (epochs * self.steps)
            swing = (1 + math.cos(math.pi * (cycles % 1.0))) / 2
            rate.fill_(least + (most - least) * swing)
        self.done += 1

    def descend(self, loss: Tensor) -> None:
        """Move the weights along the gradient of a loss that is summed over the runs, at the rates that are set."""
        self.adam.descend(loss)
