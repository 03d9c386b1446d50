"""Adam and a learning-rate schedule with settings per run: parameters carry the runs axis R in front."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Adam:
    """Adam with L2 penalty as torch.optim.Adam, with a learning rate and a penalty per run."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        weight_decay: Tensor,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        """weight_decay: (R,)."""
        self.parameters = list(parameters)
        self.weight_decay, self.betas, self.epsilon = weight_decay, betas, epsilon
        self.mean = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.square = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = 0

    def step(self, loss: Tensor, lr: Tensor) -> tuple[Tensor, ...]:
        """Move the parameters against the gradient of the loss, lr: (R,); return the gradients."""
        gradients = torch.autograd.grad(loss, self.parameters)
        self.apply(gradients, lr)
        return gradients

    @torch.no_grad()
    def apply(self, gradients: Iterable[Tensor], lr: Tensor) -> None:
        """Move the parameters against the given gradients, lr: (R,)."""
        self.steps += 1
        first, second = self.betas
        rate = lr / (1 - first**self.steps)
        root = math.sqrt(1 - second**self.steps)
        for parameter, gradient, mean, square in zip(self.parameters, gradients, self.mean, self.square, strict=True):
            shape = (-1, *[1] * (parameter.ndim - 1))
            penalised = gradient + self.weight_decay.view(shape) * parameter
            mean.lerp_(penalised, 1 - first)
            square.mul_(second).addcmul_(penalised, penalised, value=1 - second)
            parameter.sub_(rate.view(shape) * mean / (square.sqrt().div_(root).add_(self.epsilon)))


class CosineRestarts:
    """The cosine schedule with warm restarts, per run: from lr to lr_min over `period` steps, again and again."""

    def __init__(self, lr: Tensor, lr_min: Tensor, period: int) -> None:
        self.lr, self.lr_min, self.period = lr, lr_min, period
        self.steps = 0

    def next(self) -> Tensor:
        """Return the learning rates (R,) of the next step."""
        share = (1 + math.cos(math.pi * (self.steps % self.period) / self.period)) / 2
        self.steps += 1
        return self.lr_min + (self.lr - self.lr_min) * share
