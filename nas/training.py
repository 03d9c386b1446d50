"""What search and retraining share: the optimiser of the weights and evaluation of whole splits."""

import torch
from torch import Tensor, nn

from nas.data import Dataset
from nas.layers import EVALUATION
from nas.space import Mix
from nas.supernet import FusionNetwork

EVALUATION_ROWS = 256


@torch.no_grad()
def evaluate(network: FusionNetwork, mix: Mix, data: Dataset, rows: Tensor) -> Tensor:
    """Return logits (R, n, 2) of rows (n,) in evaluation mode: stored statistics, no dropout."""
    parts = torch.split(rows, EVALUATION_ROWS)
    layers = network.candidates.layers
    return torch.cat([network(data.gather(part[None], layers), mix, EVALUATION) for part in parts], dim=1)


def set_gradients(loss: Tensor, parameters: list[nn.Parameter]) -> None:
    """Set the gradients of the loss with respect to these parameters, and of nothing else.

    They are made contiguous: fused Adam reads a transposed gradient (that of a matrix product) in the wrong order,
    without an error.
    """
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient.contiguous()


def weight_optimiser(
    parameters: list[nn.Parameter], *, lr: float, lr_min: float, weight_decay: float, restart_epochs: int, steps: int
) -> tuple[torch.optim.Adam, torch.optim.lr_scheduler.CosineAnnealingWarmRestarts]:
    """Return Adam and its cosine schedule with warm restarts, to be stepped once per minibatch."""
    optimiser = torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimiser, T_0=restart_epochs * steps, eta_min=lr_min
    )
    return optimiser, schedule
