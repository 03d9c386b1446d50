"""The fusion network over a runs axis, and the supernet: the same network with architecture parameters."""

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.architecture import ArchitectureParameters
from nas.config import SpaceName
from nas.genotype import cell_name, step_name
from nas.layers import Block, ConvBlock, LayerNorm, Linear, Pass, initialise_blocks, normalise
from nas.primitives import OPERATIONS
from nas.space import Candidates, CellCandidates, CellMix, Mix, StepCandidates
from nas.streams import Streams


class FusionNetwork(nn.Module):
    """R networks of the same candidates side by side; a mix decides what each of them reads."""

    def __init__(
        self,
        candidates: Candidates,
        in_channels: Mapping[str, int],
        *,
        channels: int,
        length: int,
        seeds: Sequence[int],
    ) -> None:
        super().__init__()
        R = len(seeds)
        self.candidates = candidates
        self.reshape = nn.ModuleDict(
            {module_key(name): ConvBlock(R, in_channels[name], channels) for name in candidates.layers}
        )
        self.cells = nn.ModuleList(FusionCell(R, cell, channels, length) for cell in candidates.cells)
        self.classifier = Linear(R, len(candidates.cells) * channels * length, 2)
        initialise_blocks(self, seeds)

    def forward(self, features: Mapping[str, Tensor], mix: Mix, how: Pass) -> Tensor:
        """Return logits (R, B, 2) of features {layer: (R, B, C_in, L)}; R may be 1 where all runs read the same."""
        values: dict[str, Tensor] = {}
        R = self.classifier.bias.shape[0]
        for name in self.candidates.layers:
            x = features[name]
            values[name] = self.reshape[module_key(name)](x.expand(R, *x.shape[1:]), how, name)
        for i, (cell, module) in enumerate(zip(self.candidates.cells, self.cells, strict=True)):
            x, y = blend([values[name] for name in cell.inputs], mix.cells[i].inputs)
            values[cell_name(i)] = module(x, y, mix.cells[i], how, cell_name(i))
        outputs = torch.cat([values[cell_name(i)].transpose(2, 3) for i in range(len(self.cells))], dim=3)
        hidden = F.relu(normalise(outputs.transpose(2, 3)))
        return self.classifier(hidden.transpose(2, 3).flatten(2))  # type: ignore[no-any-return]


class FusionCell(Block):
    """One cell: steps, their weighted sum, 1x1 convolution block, residual, layer norm."""

    def __init__(self, runs: int, candidates: CellCandidates, channels: int, length: int) -> None:
        super().__init__()
        self.candidates = candidates
        self.steps = nn.ModuleList(FusionStep(runs, step, channels, length) for step in candidates.steps)
        self.step_weights = nn.Parameter(torch.ones(runs, 1, len(candidates.steps)))
        self.output = ConvBlock(runs, channels, channels)
        self.norm = LayerNorm(runs, channels, length)

    def forward(self, x: Tensor, y: Tensor, mix: CellMix, how: Pass, site: str) -> Tensor:
        """Return the cell's output (R, B, C, L)."""
        values = {"x": x, "y": y}
        for t, (candidates, module) in enumerate(zip(self.candidates.steps, self.steps, strict=True)):
            left, right = blend([values[name] for name in candidates.inputs], mix.steps[t])
            values[step_name(t)] = module(left, right, mix.operations[t], how, f"{site}.{step_name(t)}")
        fused = blend([values[step_name(t)] for t in range(len(self.steps))], self.step_weights)[0]
        return self.norm(self.output(fused, how, site) + x)  # type: ignore[no-any-return]


class FusionStep(nn.Module):
    """One step: its candidate operations, mixed."""

    def __init__(self, runs: int, candidates: StepCandidates, channels: int, length: int) -> None:
        super().__init__()
        self.operations = nn.ModuleDict(
            {name: OPERATIONS[name](runs, channels, length) for name in candidates.operations}
        )

    def forward(self, x: Tensor, y: Tensor, weights: Tensor, how: Pass, site: str) -> Tensor:
        """Return the mix of the operations' outputs, weights: (R, operations)."""
        outputs = [operation(x, y, how, f"{site}.{name}") for name, operation in self.operations.items()]
        return blend(outputs, weights[..., None, :])[0]


class Supernet(nn.Module):
    """A fusion network with every candidate, and the architecture parameters that mix them: two parameter sets."""

    def __init__(
        self,
        candidates: Candidates,
        in_channels: Mapping[str, int],
        *,
        space: SpaceName,
        channels: int,
        length: int,
        seeds: Sequence[int],
    ) -> None:
        super().__init__()
        self.fusion = FusionNetwork(candidates, in_channels, channels=channels, length=length, seeds=seeds)
        self.architecture = ArchitectureParameters(candidates, space, seeds)

    def weight_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights, reshape layers included."""
        return self.fusion.parameters()

    def arch_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the architecture parameters alpha, beta and gamma."""
        return self.architecture.parameters()

    def forward(self, features: Mapping[str, Tensor], mix: Mix, how: Pass) -> Tensor:
        """Return logits (R, B, 2) under the given mix."""
        return self.fusion(features, mix, how)  # type: ignore[no-any-return]


def blend(values: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, ...]:
    """Return one weighted sum per slot of n values (R, B, C, L), weights: (R, slots, n), or (R, B or 1, slots, n)."""
    if weights.ndim == 4 and weights.shape[1] == 1:
        weights = weights[:, 0]
    if weights.ndim == 4:
        R, B = values[0].shape[:2]
        stacked = torch.stack([value.transpose(2, 3) for value in values], dim=2)
        sums = torch.bmm(weights.reshape(R * B, *weights.shape[2:]), stacked.view(R * B, len(values), -1)).view(
            R, B, -1, *stacked.shape[3:]
        )
        return tuple(slot.transpose(2, 3) for slot in sums.unbind(2))
    stacked = torch.stack([value.transpose(2, 3) for value in values], dim=1)
    sums = torch.bmm(weights, stacked.flatten(2)).view(*weights.shape[:2], *stacked.shape[2:])
    return tuple(slot.transpose(2, 3) for slot in sums.unbind(1))


def module_key(layer: str) -> str:
    """Return a layer's name as part of a parameter's name, where torch allows no dots."""
    return layer.replace("%", "%25").replace(".", "%2E")


def dropout_sites(candidates: Candidates) -> list[str]:
    """Return the names of all places with dropout."""
    sites = list(candidates.layers)
    for i, cell in enumerate(candidates.cells):
        sites.append(cell_name(i))
        for t, step in enumerate(cell.steps):
            sites += [f"{cell_name(i)}.{step_name(t)}.{name}" for name in step.operations if name != "Sum"]
    return sites


def draw_dropout(
    streams: Streams, sites: Sequence[str], probability: float, shape: tuple[int, int, int]
) -> dict[str, Tensor] | None:
    """Return dropout scales per site, (R, B, C, L) each, for shape (B, C, L); None for probability 0."""
    if probability == 0.0:
        return None
    B, C, L = shape
    scales = streams.dropout_scales((len(sites), B, L, C), probability).transpose(3, 4)
    return dict(zip(sites, scales.unbind(1), strict=True))
