"""Adam over a runs axis: every run with settings of its own."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-8
LANES = 16
"""Runs are padded to a multiple of so many numbers: torch's kernel rounds a tensor's last ones in another way."""
PARTS, FEW = 8, 2**20
"""A backward pass holds about 1 / PARTS of all gradients at a time, or FEW numbers where that is more."""

Setting = TypeVar("Setting")


class Adam:
    """torch.optim.Adam for R runs at once, as if each run had its own; the runs of equal settings are moved together.

    Create it on the final device, and set values by `load_state_dict` or `copy_` from then on.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float | list[float],
        betas: tuple[float, float] | list[tuple[float, float]] = (0.9, 0.999),
        weight_decay: float | list[float] = 0.0,
    ) -> None:
        """parameters: (R, ...) each; lr, betas, weight_decay: one for all runs, or a list with one per run.

        Where all of them are one for all, the parameters need no common axis.
        """
        self.parameters = list(parameters)
        alike = not any(isinstance(setting, list) for setting in (lr, betas, weight_decay))
        R = 1 if alike else len(self.parameters[0])
        self.lr, self.betas, self.weight_decay = per_run(lr, R), per_run(betas, R), per_run(weight_decay, R)
        self.padding = [-p[0].numel() % LANES for p in self.parameters]
        self.moments = [
            (torch.zeros_like(padded), torch.zeros_like(padded))
            for padded in map(_padded, self.parameters, self.padding)
        ]
        self.count = torch.zeros((), device=self.parameters[0].device)
        self.places: dict[Tensor, int] = {parameter: i for i, parameter in enumerate(self.parameters)}
        self.most_held = max(sum(p.numel() for p in self.parameters) // PARTS, FEW)
        self.held: dict[int, Tensor] = {}
        self.numbers_held = 0

    def set_lr(self, lr: Sequence[float]) -> None:
        """Set the learning rate of every run."""
        self.lr = list(lr)

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters by their gradients, one (R, ...) per parameter."""
        self.count += 1
        self._move(dict(enumerate(gradients)))

    def descend(self, loss: Tensor) -> None:
        """Move the parameters along the gradient of a loss, each soon after its gradient is there.

        The gradients of many parameters are never held all at once.
        """
        self.count += 1
        hooks = [p.register_post_accumulate_grad_hook(self._hold) for p in self.parameters]  # type: ignore[no-untyped-call]
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        finally:
            for hook in hooks:
                hook.remove()
        self._move_held()

    def _hold(self, parameter: Tensor) -> None:
        """Take a parameter's gradient; move what is held where that is enough."""
        if parameter.grad is not None:
            self.numbers_held += parameter.numel()
            self.held[self.places[parameter]], parameter.grad = parameter.grad, None
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
        settings = list(zip(self.lr, self.betas, self.weight_decay, strict=True))
        for lr, (beta1, beta2), weight_decay in dict.fromkeys(settings):
            alike = [r for r, of_run in enumerate(settings) if of_run == (lr, (beta1, beta2), weight_decay)]
            rows = held if len(alike) == len(settings) else [tuple(x[r] for x in four) for r in alike for four in held]
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


def per_run(setting: Setting | list[Setting], runs: int) -> list[Setting]:
    """Return one setting per run of one for all, or of a list with one each."""
    if not isinstance(setting, list):
        return [setting] * runs
    if len(setting) != runs:
        raise ValueError(f"a setting has {len(setting)} values for {runs} runs; allowed: one, or a list of {runs}")
    return setting
