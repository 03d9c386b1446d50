"""Building blocks whose parameters carry a leading runs axis R.

Activations are (R, B, L, C), channels last: a 1x1 convolution is then one matrix product per run.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.functions import EPSILON, conv_norm, multiply
from nas.random import Dropout, Streams

BATCH_NORM_MOMENTUM = 0.1
Activation = Literal["relu", "glu", "identity"]


@dataclass(frozen=True)
class Pass:
    """How one forward pass normalises and drops.

    statistics: "running" uses the stored batch-norm statistics (evaluation), "batch" the batch's own, "track" the
    batch's own and also moves the stored ones. dropout: None drops nothing. gaps: layers that windows may lack; in such
    a window they are zeros throughout.
    """

    statistics: Literal["running", "batch", "track"] = "running"
    dropout: Dropout | None = None
    gaps: Collection[str] = ()

    def keep(self, site: str, shape: Sequence[int]) -> tuple[Tensor | None, Tensor | None]:
        """Return (zeros and ones (R, *shape), their factor (1, 1, 1)) of the named site; None, None: all are kept."""
        kept = None if self.dropout is None else self.dropout.keep(site, shape)
        return kept, None if kept is None or self.dropout is None else self.dropout.scale

    def drop(self, site: str, x: Tensor) -> Tensor:
        """Return x: (R, B, L, C) after the dropout of the named site."""
        kept, scale = self.keep(site, x.shape[1:])
        return x if kept is None or scale is None else x * kept * scale[..., None]


EVALUATION = Pass()


class Block(nn.Module):
    """A block whose initial values come from (run seed, own name): not from which other blocks exist."""

    def initialise(self, seeds: Sequence[int], name: str) -> None:
        """Set the initial values of every run."""


class Pointwise(Block):
    """1x1 convolution (R, B, L, C_in) -> (R, B, L, C_out), without a bias: a batch norm always follows."""

    def __init__(self, runs: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(runs, outputs, inputs))

    def initialise(self, seeds: Sequence[int], name: str) -> None:
        """Set U(-1 / sqrt(C_in), 1 / sqrt(C_in)), as torch.nn.Conv1d does."""
        initialise_uniform(self.weight, seeds, f"{name}.weight", self.weight.shape[2])

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x."""
        R, B, L, C = x.shape
        return multiply(x.reshape(R, B * L, C), self.weight.transpose(1, 2)).view(R, B, L, -1)


class Linear(Pointwise):
    """Affine map (R, B, features) -> (R, B, outputs)."""

    def __init__(self, runs: int, features: int, outputs: int) -> None:
        super().__init__(runs, features, outputs)
        self.bias = nn.Parameter(torch.zeros(runs, outputs))

    def initialise(self, seeds: Sequence[int], name: str) -> None:
        """Set U(-1 / sqrt(features), 1 / sqrt(features)), as torch.nn.Linear does."""
        super().initialise(seeds, name)
        initialise_uniform(self.bias, seeds, f"{name}.bias", self.weight.shape[2])

    def forward(self, x: Tensor) -> Tensor:
        """Return the affine map of x."""
        return multiply(x, self.weight.transpose(1, 2), self.bias[:, None])


class BatchNorm(Block):
    """Parameters and running statistics (R, C) of a batch norm over (B, L), as torch.nn.BatchNorm1d.

    Momentum 0.1, unbiased running variance.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, runs: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(runs, channels))
        self.bias = nn.Parameter(torch.zeros(runs, channels))
        self.register_buffer("running_mean", torch.zeros(runs, channels))
        self.register_buffer("running_variance", torch.ones(runs, channels))

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics towards a batch's mean and biased variance (R, C) of `count` values each."""
        self.running_mean.lerp_(mean, BATCH_NORM_MOMENTUM)
        self.running_variance.lerp_(variance * (count / max(count - 1, 1)), BATCH_NORM_MOMENTUM)

    def forward(self, rows: Tensor) -> Tensor:
        """Return rows: (R, N, C) normalised by the running statistics."""
        scale = self.weight * torch.rsqrt(self.running_variance + EPSILON)
        shift = self.bias - self.running_mean * scale
        return torch.addcmul(shift[:, None], rows, scale[:, None])


class ConvBlock(Block):
    """1x1 convolution, batch norm, activation, dropout: (R, B, L, C_in) -> (R, B, L, C_out).

    Several inputs are read as if concatenated along C. activation "glu" convolves to 2 C_out channels: the output is
    the first half times the sigmoid of the second.
    """

    def __init__(self, runs: int, inputs: int, outputs: int, activation: Activation = "relu") -> None:
        super().__init__()
        self.activation, self.outputs = activation, outputs
        convolved = 2 * outputs if activation == "glu" else outputs
        self.convolution = Pointwise(runs, inputs, convolved)
        self.norm = BatchNorm(runs, convolved)

    def forward(self, *inputs: Tensor, how: Pass, site: str) -> Tensor:
        """Return the block's output; `site` names its dropout."""
        if how.statistics == "running":
            return self._evaluate(inputs, how, site)
        B, L = inputs[0].shape[1:3]
        keep, scale = how.keep(site, (B, L, self.outputs))
        weights = self.convolution.weight, self.norm.weight, self.norm.bias
        out, mean, variance = conv_norm(inputs, *weights, activation=self.activation, keep=keep, scale=scale)
        if how.statistics == "track":
            self.norm.track(mean, variance, B * L)
        return out

    def _evaluate(self, inputs: Sequence[Tensor], how: Pass, site: str) -> Tensor:
        R, B, L = inputs[0].shape[:3]
        parts = self.convolution.weight.split_with_sizes([x.shape[3] for x in inputs], dim=2)
        x = self.norm(
            reduce(add, [multiply(x.reshape(R, B * L, -1), w.mT) for x, w in zip(inputs, parts, strict=True)])
        )
        if self.activation == "relu":
            x = F.relu(x)
        elif self.activation == "glu":
            x = F.glu(x, dim=2)
        return how.drop(site, x.view(R, B, L, -1))


class LayerNorm(Block):
    """Layer norm over (L, C), as torch.nn.LayerNorm((L, C)) per run."""

    def __init__(self, runs: int, channels: int, length: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(runs, length, channels))
        self.bias = nn.Parameter(torch.zeros(runs, length, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return x: (R, B, L, C) normalised."""
        return torch.addcmul(self.bias[:, None], normalise(x), self.weight[:, None])


def normalise(x: Tensor) -> Tensor:
    """Return x: (R, B, L, C) with mean 0 and variance 1 over (L, C) of every window."""
    return F.layer_norm(x, x.shape[2:], eps=EPSILON)


@torch.no_grad()
def initialise_uniform(parameter: Tensor, seeds: Sequence[int], name: str, fan_in: int) -> None:
    """Fill parameter: (R, ...) with U(-b, b), b = 1 / sqrt(fan_in)."""
    drawn = Streams(seeds, name, parameter.device).uniform(parameter.shape[1:])
    parameter.copy_(drawn.mul_(fan_in**-0.5))


def initialise_blocks(root: nn.Module, seeds_of: Callable[[str], Sequence[int]]) -> None:
    """Set the initial values of every block below root; seeds_of: those of the runs that the block of a name holds."""
    for name, module in root.named_modules():
        if isinstance(module, Block):
            module.initialise(seeds_of(name), name)
