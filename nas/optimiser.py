"""Adam over a runs axis: every run with settings of its own."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Setting = TypeVar("Setting")


class Adam:
    """torch.optim.Adam for R runs at once, as if each run had its own.

    The parameters are moved into one buffer with a row per run, of which they become views; each row is one
    parameter group of torch's fused Adam, which passes over memory once. So: create it on the final device, and set
    values by `load_state_dict` or `copy_` from then on.
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

        Where all of them are one for all, the parameters need no common axis: everything is one row.
        """
        self.parameters = list(parameters)
        alike = not any(isinstance(setting, list) for setting in (lr, betas, weight_decay))
        self.rows = R = 1 if alike else len(self.parameters[0])
        buffer = torch.cat([p.detach().reshape(R, -1) for p in self.parameters], dim=1)
        gradients = torch.zeros_like(buffer)
        self.gradients = self._views(gradients)
        for parameter, view in zip(self.parameters, self._views(buffer), strict=True):
            parameter.data = view
        settings = zip(per_run(lr, R), per_run(betas, R), per_run(weight_decay, R), strict=True)
        groups = []
        for row, gradient, (rate, decays, penalty) in zip(buffer, gradients, settings, strict=True):
            whole = nn.Parameter(row)
            whole.grad = gradient
            groups.append({"params": [whole], "lr": rate, "betas": decays, "weight_decay": penalty})
        self.adam = torch.optim.Adam(groups, fused=True)

    def set_lr(self, lr: Sequence[float]) -> None:
        """Set the learning rate of every run."""
        for group, rate in zip(self.adam.param_groups, lr, strict=True):
            group["lr"] = rate

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters by their gradients, one (R, ...) per parameter."""
        torch._foreach_copy_(self.gradients, list(gradients))
        self.adam.step()

    def _views(self, buffer: Tensor) -> list[Tensor]:
        """Return the columns of every parameter in a buffer (R, all), in the parameters' shapes."""
        sizes = [p.numel() // self.rows for p in self.parameters]
        columns = torch.split(buffer, sizes, dim=1)
        return [part.view(p.shape) for part, p in zip(columns, self.parameters, strict=True)]


def per_run(setting: Setting | list[Setting], runs: int) -> list[Setting]:
    """Return one setting per run of one for all, or of a list with one each."""
    if not isinstance(setting, list):
        return [setting] * runs
    if len(setting) != runs:
        raise ValueError(f"a setting has {len(setting)} values for {runs} runs; allowed: one, or a list of {runs}")
    return setting
