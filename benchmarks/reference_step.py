"""A search step as the published code writes it, for comparison: plain torch modules, one run, loops in Python.

As arXiv 2406.13384 and its released code: convolutions of torch.nn, one batch norm, ReLU and dropout after the other,
an edge at a time, an operation at a time, M straight-through draws one after the other. What is wrong in the released
code (logits divided M times over, reshape layers left untrained) is written right: a wrong step is no baseline.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Convolution(nn.Sequential):
    """1x1 convolution, batch norm, an activation, dropout."""

    def __init__(self, inputs: int, outputs: int, activation: nn.Module, dropout: float) -> None:
        super().__init__(nn.Conv1d(inputs, outputs, 1), nn.BatchNorm1d(outputs), activation, nn.Dropout(dropout))


class Sum(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class ScaledDotAttn(nn.Module):
    def __init__(self, channels: int, length: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm([channels, length])
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        scores = F.softmax(torch.bmm(x.transpose(1, 2), y) / x.shape[1] ** 0.5, dim=-1)
        return self.norm(self.dropout(torch.bmm(scores, y.transpose(1, 2)).transpose(1, 2)))


class Joined(nn.Module):
    """LinearGLU and ConcatFC: a convolution of [x; y]."""

    def __init__(self, channels: int, outputs: int, activation: nn.Module, dropout: float) -> None:
        super().__init__()
        self.convolution = Convolution(2 * channels, outputs, activation, dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.convolution(torch.cat([x, y], dim=1))


class Step(nn.Module):
    def __init__(self, channels: int, length: int, dropout: float) -> None:
        super().__init__()
        self.operations = nn.ModuleList(
            [
                Sum(),
                ScaledDotAttn(channels, length, dropout),
                Joined(channels, 2 * channels, nn.GLU(dim=1), dropout),
                Joined(channels, channels, nn.ReLU(), dropout),
            ]
        )

    def forward(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        return sum(weight * operation(x, y) for weight, operation in zip(weights, self.operations, strict=True))


class Cell(nn.Module):
    def __init__(self, steps: int, channels: int, length: int, dropout: float) -> None:
        super().__init__()
        self.steps = nn.ModuleList(Step(channels, length, dropout) for _ in range(steps))
        self.step_weights = nn.Parameter(torch.ones(steps))
        self.output = Convolution(channels, channels, nn.ReLU(), dropout)
        self.norm = nn.LayerNorm([channels, length])

    def forward(self, x: Tensor, y: Tensor, beta: Sequence[Tensor], gamma: Tensor) -> Tensor:
        states = [x, y]
        for step, edges, weights in zip(self.steps, beta, gamma, strict=True):
            mixed = sum(edge[1] * state for edge, state in zip(edges, states, strict=True))
            states.append(step(mixed, mixed, weights))
        out = sum(weight * state for weight, state in zip(self.step_weights, states[2:], strict=True))
        return self.norm(self.output(out) + x)


class ReferenceNetwork(nn.Module):
    """The supernet of space bmnas with its architecture parameters alpha, beta, gamma."""

    def __init__(
        self, in_channels: Sequence[int], *, cells: int, steps: int, channels: int, length: int, dropout: float
    ) -> None:
        super().__init__()
        self.reshape = nn.ModuleList(Convolution(width, channels, nn.ReLU(), dropout) for width in in_channels)
        self.cells = nn.ModuleList(Cell(steps, channels, length, dropout) for _ in range(cells))
        self.classifier = nn.Linear(cells * channels * length, 2)
        self.alpha = nn.ParameterList(1e-3 * torch.randn(len(in_channels) + i, 2) for i in range(cells))
        self.beta = nn.ParameterList(1e-3 * torch.randn(2 + t, 2) for _ in range(cells) for t in range(steps))
        self.gamma = nn.ParameterList(1e-3 * torch.randn(steps, 4) for _ in range(cells))

    def arch_parameters(self) -> list[nn.Parameter]:
        return [*self.alpha, *self.beta, *self.gamma]

    def weight_parameters(self) -> list[nn.Parameter]:
        arch = {id(p) for p in self.arch_parameters()}
        return [p for p in self.parameters() if id(p) not in arch]

    def forward(self, features: Sequence[Tensor], temperature: float, samples: int) -> Tensor:
        states = [reshape(x) for reshape, x in zip(self.reshape, features, strict=True)]
        cells = len(self.cells)
        steps = len(self.beta) // cells
        for i, cell in enumerate(self.cells):
            alpha = straight_through(self.alpha[i], temperature, samples)
            mixed = sum(edge[1] * state for edge, state in zip(alpha, states, strict=True))
            beta = [straight_through(self.beta[i * steps + t], temperature, samples) for t in range(steps)]
            states.append(cell(mixed, mixed, beta, straight_through(self.gamma[i], temperature, samples)))
        out = torch.cat(states[-cells:], dim=1)
        return self.classifier(F.relu(F.layer_norm(out, out.shape[1:])).flatten(1))


def straight_through(logits: Tensor, temperature: float, samples: int) -> Tensor:
    """Return the average of M straight-through Gumbel-softmax draws, one after the other."""
    return sum(F.gumbel_softmax(logits, temperature, hard=True) for _ in range(samples)) / samples  # type: ignore[return-value]  # M is at least 1


class ReferenceSearch:
    """One sequential run: `step()` is a weight step on a train minibatch and an architecture step on a val one."""

    def __init__(
        self,
        features: Sequence[Tensor],
        labels: Tensor,
        *,
        train: Tensor,
        val: Tensor,
        batch_size: int,
        temperature: float,
        samples: int,
        network: ReferenceNetwork,
    ) -> None:
        self.features, self.labels, self.train, self.val = features, labels, train, val
        self.batch_size, self.temperature, self.samples, self.network = batch_size, temperature, samples, network
        self.weights = torch.optim.Adam(network.weight_parameters(), lr=1e-3, weight_decay=3e-4)
        self.arch = torch.optim.Adam(network.arch_parameters(), lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)

    def step(self) -> None:
        for rows, optimiser in ((self.train, self.weights), (self.val, self.arch)):
            batch = rows[torch.randperm(len(rows))[: self.batch_size]]
            optimiser.zero_grad()
            logits = self.network([x[batch] for x in self.features], self.temperature, self.samples)
            F.cross_entropy(logits, self.labels[batch]).backward()
            optimiser.step()
