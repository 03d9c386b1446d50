"""The second-order architecture gradient of DARTS (arXiv 1806.09055, equations 6 to 8), over a runs axis."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

STEP = 0.01
"""The finite difference moves the weights by this, as a Euclidean norm (DARTS, footnote 2)."""

Losses = Callable[[], Tensor]
"""The losses (R,) of the runs at the present values of weights and choices, the same minibatch and noise each time."""


def unrolled_gradient(
    weights: Sequence[nn.Parameter], choices: Sequence[nn.Parameter], train: Losses, val: Losses, lr: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return val's losses (R,) after one weight step, and their gradient with respect to the choices.

    The step is w' = w - lr dL_train(w, a)/dw with lr (R,). With v = dL_val(w', a)/dw' the gradient is
    dL_val(w', a)/da - lr (dL_train(w + e v, a)/da - dL_train(w - e v, a)/da) / (2 e), e = 0.01 / |v| per run.
    The weights are as before afterwards.
    """
    before = [weight.detach().clone() for weight in weights]
    step = torch.autograd.grad(train().sum(), list(weights))
    _move(weights, before, step, -lr)
    losses = val()
    gradients = torch.autograd.grad(losses.sum(), [*weights, *choices])
    direction, direct = gradients[: len(weights)], gradients[len(weights) :]
    norm = torch.stack([part.flatten(1).square().sum(1) for part in direction]).sum(0).sqrt()
    epsilon = STEP / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    sides = []
    for side in (epsilon, -epsilon):
        _move(weights, before, direction, side)
        sides.append(torch.autograd.grad(train().sum(), list(choices)))
    _move(weights, before, direction, torch.zeros_like(lr))
    scale = lr / (2.0 * epsilon)
    implicit = [_times(plus - minus, scale) for plus, minus in zip(*sides, strict=True)]
    return losses.detach(), [first - second for first, second in zip(direct, implicit, strict=True)]


@torch.no_grad()
def _move(weights: Sequence[nn.Parameter], start: Sequence[Tensor], along: Sequence[Tensor], by: Tensor) -> None:
    """Set the weights to start + by * along, by: (R,)."""
    for weight, origin, direction in zip(weights, start, along, strict=True):
        weight.copy_(origin + _times(direction, by))


def _times(value: Tensor, factor: Tensor) -> Tensor:
    """Return value (R, ...) times factor (R,)."""
    return value * factor.view(-1, *[1] * (value.ndim - 1))
