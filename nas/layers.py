"""Building blocks whose parameters carry a leading runs axis R.

Activations are (R, B, L, C), channels last: a 1x1 convolution is then one matrix product per run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.functions import EPSILON, affine, conv_norm, convolve
from nas.streams import Streams, generator

BATCH_NORM_MOMENTUM = 0.1
LEVELS = 256
Activation = Literal["relu", "glu", "identity"]


class Dropout:
    """The dropout of R runs: fresh masks at every call, from one generator per run and site.

    What is drawn at a site depends on the run's seed and the site's name, not on which other sites or runs exist. One
    random byte decides each element, so a probability is rounded to a multiple of 1/256; the scale follows it.
    """

    def __init__(self, seeds: Sequence[int], probability: float | Sequence[float], device: torch.device | str) -> None:
        given = [probability] * len(seeds) if isinstance(probability, float | int) else list(probability)
        dropped = torch.tensor([min(round(p * LEVELS), LEVELS - 1) for p in given], device=device)
        self.seeds, self.device = tuple(seeds), torch.device(device)
        self.active = bool(dropped.any())
        self.scale = (LEVELS / (LEVELS - dropped)).float().view(-1, 1, 1)
        self.threshold = (dropped * 2**24 - 2**31).int().view(-1, 1, 1)
        self.shifts = torch.arange(0, 32, 8, dtype=torch.int32, device=device).view(1, 4, 1)
        self.streams: dict[str, Streams] = {}

    def keep(self, site: str, shape: Sequence[int]) -> Tensor | None:
        """Return zeros (dropped) and ones (R, *shape) in float32; None where no run drops anything."""
        if not self.active:
            return None
        if site not in self.streams:
            self.streams[site] = Streams(self.seeds, f"dropout/{site}", self.device)
        elements = torch.Size(shape).numel()
        words = self.streams[site].words(-(-elements // 4))
        # In place and in one type: comparing into booleans and converting those takes three times as long.
        kept = torch.bitwise_left_shift(words[:, None], self.shifts).ge_(self.threshold).float()
        return kept.flatten(1)[:, :elements].view(-1, *shape)


@dataclass(frozen=True)
class Pass:
    """How one forward pass normalises and drops.

    statistics: "running" uses the stored batch-norm statistics (evaluation), "batch" the batch's own, "track" the
    batch's own and also moves the stored ones. dropout: None drops nothing.
    """

    statistics: Literal["running", "batch", "track"] = "running"
    dropout: Dropout | None = None

    def keep(self, site: str, shape: Sequence[int]) -> tuple[Tensor | None, Tensor | None]:
        """Return (zeros and ones (R, *shape), their factor (R, 1, 1)) of the named site; None, None: all are kept."""
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
        return torch.bmm(x.reshape(R, B * L, C), self.weight.transpose(1, 2)).view(R, B, L, -1)


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

    Several inputs are read as if concatenated along C. activation "glu" gives C_out / 2 channels: the first half of
    the convolution's times the sigmoid of the second.
    """

    def __init__(self, runs: int, inputs: int, outputs: int, activation: Activation = "relu") -> None:
        super().__init__()
        self.activation = activation
        self.outputs = outputs // 2 if activation == "glu" else outputs
        self.convolution = Pointwise(runs, inputs, outputs)
        self.norm = BatchNorm(runs, outputs)

    def forward(self, *inputs: Tensor, how: Pass, site: str, room: Tensor | None = None) -> Tensor:
        """Return the block's output; `site` names its dropout, `room` is where to put it in training."""
        if how.statistics == "running":
            return self._evaluate(inputs, how, site)
        B, L = inputs[0].shape[1:3]
        keep, scale = how.keep(site, (B, L, self.outputs))
        out, mean, variance = conv_norm(
            inputs,
            self.convolution.weight,
            self.norm.weight,
            self.norm.bias,
            activation=self.activation,
            keep=keep,
            scale=scale,
            room=room,
        )
        if how.statistics == "track":
            self.norm.track(mean, variance, B * L)
        return out

    def _evaluate(self, inputs: Sequence[Tensor], how: Pass, site: str) -> Tensor:
        R, B, L = inputs[0].shape[:3]
        x = self.norm(convolve([x.reshape(R, B * L, x.shape[3]) for x in inputs], self.convolution.weight))
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
        return affine(x, self.weight, self.bias)


def classify(outputs: Sequence[Tensor], classifier: Linear) -> Tensor:
    """Return logits (R, B, 2) of the cells' outputs (R, B, L, C), normalised together."""
    joined = torch.cat(list(outputs), dim=3) if len(outputs) > 1 else outputs[0]  # cat copies even a single one
    return classifier(F.relu(normalise(joined)).flatten(2))  # type: ignore[no-any-return]


def normalise(x: Tensor) -> Tensor:
    """Return x: (R, B, L, C) with mean 0 and variance 1 over (L, C) of every window."""
    return F.layer_norm(x, x.shape[2:], eps=EPSILON)


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
