"""Fixed architectures over a runs axis: R networks side by side, each block holding only the runs that use it.

The blocks and their names are the supernet's. Rows move between a block's runs and all runs by a `Route`; where a block
serves every run (always for R = 1) nothing moves.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from nas.functions import blend
from nas.genotype import Cell, Genotype, Step, cell_name, step_name
from nas.layers import Block, ConvBlock, LayerNorm, Linear, Pass, classify
from nas.primitives import OPERATIONS
from nas.supernet import module_key

Runs = tuple[int, ...]


class RunsNetwork(nn.Module):
    """R networks side by side, whose blocks may hold some of the runs only. readers: {layer: the runs that read it}."""

    readers: dict[str, Runs]

    def blank(self, runs: Sequence[int]) -> Self:
        """Return new networks of the architectures of these runs, in this order."""
        raise NotImplementedError

    def runs_of(self, name: str) -> Runs:
        """Return the runs that a block, parameter or buffer of the given name holds, in the order of its first axis."""
        raise NotImplementedError

    def runs_at(self, site: str) -> Runs:
        """Return the runs that pass a place with dropout."""
        raise NotImplementedError

    def rows(self, name: str, runs: Collection[int]) -> list[int]:
        """Return which rows of a parameter's or buffer's first axis hold the given runs."""
        return [row for row, run in enumerate(self.runs_of(name)) if run in runs]

    def take(self, runs: Sequence[int]) -> Self:
        """Return these runs, in ascending order, as networks of their own; their values are copies."""
        network, state = self.blank(runs), self.state_dict()
        network.load_state_dict({name: state[name][self.rows(name, runs)] for name in network.state_dict()})
        return network.to(next(iter(state.values())).device)


class FixedNetwork(RunsNetwork):
    """R derived networks, run r of architecture genotypes[r]; all have as many cells, and cells as many steps.

    readers: {layer: the runs that read it}; users[i][t]: {operation: the runs that use it} in step t of cell i.
    """

    def __init__(
        self,
        genotypes: Sequence[Genotype],
        in_channels: Mapping[str, int],
        *,
        channels: int,
        length: int,
        seeds: Sequence[int],
    ) -> None:
        super().__init__()
        self.runs = tuple(range(len(genotypes)))
        self.genotypes, self.in_channels, self.channels, self.length = genotypes, in_channels, channels, length
        layers = [genotype.layers() for genotype in genotypes]
        self.readers = users(self.runs, lambda r: layers[r])
        self.reshape = nn.ModuleDict(
            {module_key(name): ConvBlock(len(runs), in_channels[name], channels) for name, runs in self.readers.items()}
        )
        cells = list(zip(*(genotype.cells for genotype in genotypes), strict=True))
        blocks = [FixedCell(of_runs, channels, length) for of_runs in cells]
        self.cells = nn.ModuleList(blocks)
        self.users = [block.users for block in blocks]
        self.classifier = Linear(len(genotypes), len(cells) * channels * length, 2)
        held = {**self.readers, **{cell_name(i): self.runs for i in range(len(cells))}}
        # Both slots in one route: with one cell it is a permutation of what the reshape layers give.
        self.inputs = nn.ModuleList(
            Route([(getattr(cell, slot), r) for slot in "xy" for r, cell in enumerate(of_runs)], held)
            for of_runs in cells
        )
        for name, module in self.named_modules():
            if isinstance(module, Block):
                module.initialise([seeds[r] for r in self.runs_of(name)], name)

    def blank(self, runs: Sequence[int]) -> Self:
        """Return new networks of the architectures of these runs, in this order."""
        genotypes = [self.genotypes[r] for r in runs]
        return type(self)(
            genotypes, self.in_channels, channels=self.channels, length=self.length, seeds=(0,) * len(runs)
        )

    def forward(self, features: Mapping[str, Tensor], how: Pass) -> Tensor:
        """Return logits (R, B, 2) of features {layer: (its readers, B, L, C_in)}.

        The leading axis of a layer, and of a site's dropout scales, may be 1 where all readers share them.
        """
        values: dict[str, Tensor] = {}
        for name, runs in self.readers.items():
            values[name] = self.reshape[module_key(name)](
                features[name].expand(len(runs), -1, -1, -1), how=how, site=name
            )
        for i, (cell, inputs) in enumerate(zip(self.cells, self.inputs, strict=True)):
            x, y = inputs(values).split(len(self.runs))
            values[cell_name(i)] = cell(x, y, how, cell_name(i))
        return classify([values[cell_name(i)] for i in range(len(self.cells))], self.classifier)

    def runs_of(self, name: str) -> Runs:
        """Return the runs that a block, parameter or buffer of the given name holds, in the order of its first axis."""
        parts = name.split(".")
        if parts[0] == "reshape" and len(parts) > 1:
            return next(runs for layer, runs in self.readers.items() if module_key(layer) == parts[1])
        if "operations" in parts[:-1]:
            return self.users[int(parts[1])][int(parts[3])][parts[5]]
        return self.runs

    def runs_at(self, site: str) -> Runs:
        """Return the runs that pass a place with dropout."""
        if site in self.readers:
            return self.readers[site]
        cell, *inner = site.split(".")
        if not inner:
            return self.runs
        names = [step_name(t) for t in range(len(self.users[0]))]
        cells = [cell_name(i) for i in range(len(self.users))]
        return self.users[cells.index(cell)][names.index(inner[0])][inner[1]]

    def state_of(self, run: int) -> dict[str, Tensor]:
        """Return the parameters and buffers of one run, each (1, ...): what it would hold alone."""
        rows = {name: (value, self.rows(name, (run,))) for name, value in self.state_dict().items()}
        return {name: value[own] for name, (value, own) in rows.items() if own}

    @classmethod
    def share(
        cls, genotypes: Sequence[Genotype], weights: Mapping[str, Tensor], in_channels: Mapping[str, int]
    ) -> Self:
        """Return networks that all use the same weights {name: (1, ...)}, as those of one run of a supernet."""
        length, channels = weights["cells.0.norm.weight"].shape[1:]
        network = cls(genotypes, in_channels, channels=channels, length=length, seeds=(0,) * len(genotypes))
        network.to(weights["classifier.bias"].device)
        shared = {name: weights[name].expand_as(value) for name, value in network.state_dict().items()}
        network.load_state_dict(shared)
        return network


class FixedCell(Block):
    """One cell: steps, their weighted sum, 1x1 convolution block, residual, layer norm. users: those of each step."""

    def __init__(self, cells: Sequence[Cell], channels: int, length: int) -> None:
        super().__init__()
        R, T = len(cells), len(cells[0].steps)
        steps = [FixedStep([cell.steps[t] for cell in cells], channels, length) for t in range(T)]
        self.steps = nn.ModuleList(steps)
        self.users = [step.users for step in steps]
        self.step_weights = nn.Parameter(torch.ones(R, 1, T))
        self.output = ConvBlock(R, channels, channels)
        self.norm = LayerNorm(R, channels, length)

    def forward(self, x: Tensor, y: Tensor, how: Pass, site: str) -> Tensor:
        """Return the cell's output (R, B, L, C)."""
        values = {"x": x, "y": y}
        for t, step in enumerate(self.steps):
            values[step_name(t)] = step(values, how, f"{site}.{step_name(t)}")
        (fused,) = blend([values[step_name(t)] for t in range(len(self.steps))], self.step_weights)
        return self.norm(self.output(fused, how=how, site=site) + x)  # type: ignore[no-any-return]


class FixedStep(nn.Module):
    """One step: each operation on the runs that chose it. users: {operation: its runs}."""

    def __init__(self, steps: Sequence[Step], channels: int, length: int) -> None:
        super().__init__()
        every = tuple(range(len(steps)))
        self.users = users(every, lambda r: [steps[r].operation])
        self.operations = nn.ModuleDict(
            {name: OPERATIONS[name](len(runs), channels, length) for name, runs in self.users.items()}
        )
        self.sizes = [len(runs) for runs in self.users.values()]
        by_operation = [r for runs in self.users.values() for r in runs]
        held = {name: every for step in steps for name in (step.x, step.y)}
        self.inputs = nn.ModuleList(Route([(getattr(steps[r], slot), r) for r in by_operation], held) for slot in "xy")
        self.outputs = Route([(step.operation, r) for r, step in enumerate(steps)], self.users)

    def forward(self, values: Mapping[str, Tensor], how: Pass, site: str) -> Tensor:
        """Return the step's output (R, B, L, C); values: {"x", "y" or an earlier step: (R, B, L, C)}."""
        slots = [route(values).split(self.sizes) for route in self.inputs]
        outputs = {}
        for (name, operation), x, y in zip(self.operations.items(), *slots, strict=True):
            outputs[name] = operation(x, y, how, f"{site}.{name}")
        return self.outputs(outputs)  # type: ignore[no-any-return]


class Route(nn.Module):
    """Gathers rows of a runs axis out of several tensors.

    wanted: per row, the tensor's name and the run; held: {name: the runs of that tensor's first axis}.
    """

    rows: Tensor
    inverse: Tensor | None

    def __init__(self, wanted: Sequence[tuple[str, int]], held: Mapping[str, Runs]) -> None:
        super().__init__()
        self.sources = tuple(dict.fromkeys(name for name, _ in wanted))
        starts, total = {}, 0
        for name in self.sources:
            starts[name] = total
            total += len(held[name])
        rows = [starts[name] + held[name].index(run) for name, run in wanted]
        self.moves = rows != list(range(total))
        inverse = {row: place for place, row in enumerate(rows)}
        permutes = len(rows) == len(inverse) == total
        self.register_buffer("rows", torch.tensor(rows), persistent=False)
        back = torch.tensor([inverse[row] for row in range(total)]) if permutes else None
        self.register_buffer("inverse", back, persistent=False)

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return (rows, B, L, C) of values {name: (its runs, B, L, C)}."""
        if len(self.sources) == 1 and not self.moves:
            return values[self.sources[0]]
        x = torch.cat([values[name] for name in self.sources])
        return _Rows.apply(x, self.rows, self.inverse) if self.moves else x


class _Rows(torch.autograd.Function):
    """x[rows] whose gradient is again one gather where rows are a permutation, without a pass that zeroes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, inverse: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, inverse)
        ctx.length = len(x)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        rows, inverse = ctx.saved_tensors
        if inverse is not None:
            return gradients[0].index_select(0, inverse), None, None
        zeros = gradients[0].new_zeros((ctx.length, *gradients[0].shape[1:]))
        return zeros.index_add_(0, rows, gradients[0]), None, None


def users(runs: Runs, choices: Callable[[int], Sequence[str]]) -> dict[str, Runs]:
    """Return {name: the runs that choose it}, in the order of first use."""
    found: dict[str, list[int]] = {}
    for r in runs:
        for name in choices(r):
            found.setdefault(name, []).append(r)
    return {name: tuple(of_name) for name, of_name in found.items()}
