"""The fusion network over a runs axis, and the supernet: the same network with architecture parameters."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from nas.architecture import ArchitectureParameters
from nas.config import SpaceName
from nas.functions import blend, side_by_side
from nas.genotype import cell_name, step_name
from nas.layers import Block, ConvBlock, LayerNorm, Linear, Pass, classify, initialise_blocks
from nas.primitives import OPERATIONS
from nas.space import Candidates, CellCandidates, CellMix, Mix, StepCandidates


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
        self.channels = channels
        self.reshape = nn.ModuleDict(
            {module_key(name): ConvBlock(R, in_channels[name], channels) for name in candidates.layers}
        )
        self.cells = nn.ModuleList(FusionCell(R, cell, channels, length) for cell in candidates.cells)
        self.classifier = Linear(R, len(candidates.cells) * channels * length, 2)
        initialise_blocks(self, seeds)

    def forward(self, features: Mapping[str, Tensor], mix: Mix, how: Pass) -> Tensor:
        """Return logits (R, B, 2) of features {layer: (R, B, L, C_in)}; R may be 1 where all runs read the same."""
        layers = self._reshaped(features, how)
        # What all cells read of the layers, in one pass over them; a cell's inputs are the layers and earlier cells.
        weights = [torch.split(cell.inputs, [len(layers), i], 2) for i, cell in enumerate(mix.cells)]
        read = iter(blend(layers, torch.cat([of_layers for of_layers, _ in weights], 1)))
        outputs: list[Tensor] = []
        for i, (module, cell) in enumerate(zip(self.cells, mix.cells, strict=True)):
            slots = [next(read) for _ in range(cell.inputs.shape[1])]
            if outputs:
                slots = [x + of_cells for x, of_cells in zip(slots, blend(outputs, weights[i][1]), strict=True)]
            outputs.append(module(slots[0], slots[-1], cell, how, cell_name(i)))
        return classify(outputs, self.classifier)

    def _reshaped(self, features: Mapping[str, Tensor], how: Pass) -> list[Tensor]:
        """Return (R, B, L, C) of every layer, in training side by side in memory."""
        layers = self.candidates.layers
        R = self.classifier.bias.shape[0]
        rows = [features[name] for name in layers]
        rooms: Sequence[Tensor | None] = [None] * len(layers)
        if how.statistics != "running":
            rooms = side_by_side(R, len(layers), (*rows[0].shape[1:3], self.channels), self.classifier.weight)
        return [
            self.reshape[module_key(name)](x.expand(R, -1, -1, -1), how=how, site=name, room=room)
            for name, x, room in zip(layers, rows, rooms, strict=True)
        ]


class FusionCell(Block):
    """One cell: steps, their weighted sum, 1x1 convolution block, residual, layer norm."""

    def __init__(self, runs: int, candidates: CellCandidates, channels: int, length: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(FusionStep(runs, step, channels, length) for step in candidates.steps)
        self.step_weights = nn.Parameter(torch.ones(runs, 1, len(candidates.steps)))
        self.output = ConvBlock(runs, channels, channels)
        self.norm = LayerNorm(runs, channels, length)

    def forward(self, x: Tensor, y: Tensor, mix: CellMix, how: Pass, site: str) -> Tensor:
        """Return the cell's output (R, B, L, C); x and y may be one and the same tensor."""
        inputs = [x] if x is y else [x, y]
        outputs: list[Tensor] = []
        for t, module in enumerate(self.steps):
            weights = mix.steps[t]
            if x is y:
                weights = torch.cat([weights[..., :2].sum(2, keepdim=True), weights[..., 2:]], 2)
            slots = blend([*inputs, *outputs], weights)
            outputs.append(module(slots[0], slots[-1], mix.operations[t], how, f"{site}.{step_name(t)}"))
        (fused,) = blend(outputs, self.step_weights)
        return self.norm(self.output(fused, how=how, site=site) + x)  # type: ignore[no-any-return]


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
        (mixed,) = blend(outputs, weights[:, None])
        return mixed


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


def module_key(layer: str) -> str:
    """Return a layer's name as part of a parameter's name, where torch allows no dots."""
    return layer.replace("%", "%25").replace(".", "%2E")
