"""Building blocks whose parameters carry a leading runs axis R.

Activations are (R, B, C, L). In memory the channels come last, because a 1x1 convolution is then one matrix
product per run; the transposed view costs nothing and element-wise operations keep the order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.streams import generator

NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.1


@dataclass(frozen=True)
class Pass:
    """How one forward pass normalises and drops.

    statistics: "running" uses the stored batch-norm statistics (evaluation), "batch" the batch's own, "track" the
    batch's own and also moves the stored ones. dropout: site name -> scales (R, B, C, L); None drops nothing.
    """

    statistics: Literal["running", "batch", "track"] = "running"
    dropout: Mapping[str, Tensor] | None = None

    def drop(self, site: str, x: Tensor) -> Tensor:
        """Return x: (R, B, C, L) after the dropout of the named site."""
        return x if self.dropout is None else x * self.dropout[site]


EVALUATION = Pass()


class Block(nn.Module):
    """A block whose initial values come from (run seed, own name): not from which other blocks exist."""

    def initialise(self, seeds: Sequence[int], name: str) -> None:
        """Set the initial values of every run."""


class Pointwise(Block):
    """1x1 convolution (R, B, C_in, L) -> (R, B, C_out, L), without a bias: a batch norm always follows."""

    def __init__(self, runs: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(runs, outputs, inputs))

    def initialise(self, seeds: Sequence[int], name: str) -> None:
        """Set U(-1 / sqrt(C_in), 1 / sqrt(C_in)), as torch.nn.Conv1d does."""
        initialise_uniform(self.weight, seeds, f"{name}.weight", self.weight.shape[2])

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x."""
        R, B, C, L = x.shape
        rows = x.transpose(2, 3).reshape(R, B * L, C)
        return torch.bmm(rows, self.weight.transpose(1, 2)).view(R, B, L, -1).transpose(2, 3)


class BatchNorm(Block):
    """Batch norm over (B, L) per run and channel, as torch.nn.BatchNorm1d: momentum 0.1, unbiased running variance."""

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, runs: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(runs, channels))
        self.bias = nn.Parameter(torch.zeros(runs, channels))
        self.register_buffer("running_mean", torch.zeros(runs, channels))
        self.register_buffer("running_variance", torch.ones(runs, channels))

    def forward(self, x: Tensor, how: Pass) -> Tensor:
        """Return x: (R, B, C, L) normalised."""
        R, B, C, L = x.shape
        rows = x.transpose(2, 3).reshape(R, B * L, C)
        if how.statistics == "running":
            mean, variance = self.running_mean[:, None], self.running_variance[:, None]
            centred = rows - mean
        else:
            # Not torch.var_mean: over an outer axis it is several times slower than these passes.
            mean = rows.mean(dim=1, keepdim=True)
            centred = rows - mean
            variance = centred.square().mean(dim=1, keepdim=True)
        if how.statistics == "track":
            self._track(mean.detach()[:, 0], variance.detach()[:, 0], B * L)
        scale = self.weight[:, None] * torch.rsqrt(variance + NORM_EPSILON)
        return torch.addcmul(self.bias[:, None], centred, scale).view(R, B, L, C).transpose(2, 3)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        self.running_mean.lerp_(mean, BATCH_NORM_MOMENTUM)
        self.running_variance.lerp_(variance * (count / max(count - 1, 1)), BATCH_NORM_MOMENTUM)


class LayerNorm(Block):
    """Layer norm over (C, L), as torch.nn.LayerNorm((C, L)) per run."""

    def __init__(self, runs: int, channels: int, length: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(runs, channels, length))
        self.bias = nn.Parameter(torch.zeros(runs, channels, length))

    def forward(self, x: Tensor) -> Tensor:
        """Return x: (R, B, C, L) normalised."""
        return torch.addcmul(self.bias[:, None], normalise(x), self.weight[:, None])


class Linear(Block):
    """Affine map (R, B, features) -> (R, B, outputs)."""

    def __init__(self, runs: int, features: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(runs, outputs, features))
        self.bias = nn.Parameter(torch.zeros(runs, outputs))

    def initialise(self, seeds: Sequence[int], name: str) -> None:
        """Set U(-1 / sqrt(features), 1 / sqrt(features)), as torch.nn.Linear does."""
        features = self.weight.shape[2]
        initialise_uniform(self.weight, seeds, f"{name}.weight", features)
        initialise_uniform(self.bias, seeds, f"{name}.bias", features)

    def forward(self, x: Tensor) -> Tensor:
        """Return the affine map of x."""
        return torch.baddbmm(self.bias[:, None], x, self.weight.transpose(1, 2))


class ConvBlock(Block):
    """1x1 convolution, batch norm, ReLU, dropout: (R, B, C_in, L) -> (R, B, C_out, L)."""

    def __init__(self, runs: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = Pointwise(runs, inputs, outputs)
        self.norm = BatchNorm(runs, outputs)

    def forward(self, x: Tensor, how: Pass, site: str) -> Tensor:
        """Return the block's output; `site` names its dropout."""
        return how.drop(site, F.relu(self.norm(self.convolution(x), how)))


def normalise(x: Tensor) -> Tensor:
    """Return x: (R, B, C, L) with mean 0 and variance 1 over (C, L) of every window."""
    rows = x.transpose(2, 3)
    return F.layer_norm(rows, rows.shape[2:], eps=NORM_EPSILON).transpose(2, 3)


@torch.no_grad()
def initialise_uniform(parameter: Tensor, seeds: Sequence[int], name: str, fan_in: int) -> None:
    """Fill parameter: (R, ...) run by run with U(-b, b), b = 1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    for row, seed in zip(parameter, seeds, strict=True):
        drawn = torch.empty(row.shape).uniform_(-bound, bound, generator=generator(seed, name))
        row.copy_(drawn)  # drawn on the CPU: the same start on every device


@torch.no_grad()
def initialise_blocks(root: nn.Module, seeds: Sequence[int]) -> None:
    """Set the initial values of every block below root."""
    for name, module in root.named_modules():
        if isinstance(module, Block):
            module.initialise(seeds, name)
