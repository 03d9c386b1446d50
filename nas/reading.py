"""How the nodes of a network read: mixtures of all candidates (a search), or rows of what each run's genotype chose."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.functions import blend
from nas.genotype import Genotype, Step, cell_name, step_name
from nas.random import Runs

Slots = tuple[Tensor, Tensor]
"""What the two inputs x and y of a node read, (R, B, L, C) each."""


@dataclass(frozen=True)
class CellMix:
    """How much one cell reads of each candidate; rows x and y of a site's inputs are its two slots.

    inputs: (R, 2, inputs of the cell); steps[t]: (R, 2, inputs of step t); operations[t]: (R, operations). One row
    instead of two: both slots read the same mixture.
    """

    inputs: Tensor
    steps: tuple[Tensor, ...]
    operations: tuple[Tensor, ...]


Mix = tuple[CellMix, ...]
"""How much every site of every cell reads of each candidate."""


class Mixture:
    """Every node reads a weighted sum of its candidates, as a mix says; x and y may be one and the same tensor."""

    def __init__(self, mix: Mix) -> None:
        self.cells = mix
        self.of_layers: Iterator[Tensor] = iter(())

    def cell(self, i: int, layers: Mapping[str, Tensor], outputs: Sequence[Tensor]) -> Slots:
        """Return what cell i reads of the layers and of the earlier cells' outputs; cells are asked for in order."""
        n = len(layers)
        if i == 0:  # what all cells read of the layers, in one pass over them
            weights = torch.cat([cell.inputs[..., :n] for cell in self.cells], 1)
            self.of_layers = iter(blend(list(layers.values()), weights, many=True))
        slots = [next(self.of_layers) for _ in range(self.cells[i].inputs.shape[1])]
        if outputs:
            of_cells = blend(outputs, self.cells[i].inputs[..., n:])
            slots = [x + y for x, y in zip(slots, of_cells, strict=True)]
        return slots[0], slots[-1]

    def step(self, i: int, t: int, x: Tensor, y: Tensor, outputs: Sequence[Tensor]) -> Iterator[Slots]:
        """Yield what each operation of step t of cell i reads of the cell's inputs and the earlier steps' outputs."""
        weights = self.cells[i].steps[t]
        if x is y:
            weights = torch.cat([weights[..., :2].sum(2, keepdim=True), weights[..., 2:]], 2)
        slots = blend([x, *outputs] if x is y else [x, y, *outputs], weights)
        for _ in range(self.cells[i].operations[t].shape[1]):
            yield slots[0], slots[-1]

    def result(self, i: int, t: int, outputs: Sequence[Tensor]) -> Tensor:
        """Return the output of step t of cell i, out of those of its operations."""
        return blend(outputs, self.cells[i].operations[t][:, None])[0]


class Routes(nn.Module):
    """Every node reads what its run's genotype chose; each operation sees only the runs that use it.

    readers: {layer: the runs that read it}; users[i][t]: {operation: the runs that use it} in step t of cell i.
    """

    def __init__(self, genotypes: Sequence[Genotype]) -> None:
        super().__init__()
        every = tuple(range(len(genotypes)))
        self.readers = users(genotype.layers() for genotype in genotypes)
        cells = list(zip(*(genotype.cells for genotype in genotypes), strict=True))
        held = {**self.readers, **{cell_name(i): every for i in range(len(cells))}}
        # Both slots in one route: with one cell it is a permutation of what the reshape layers give.
        self.cells = nn.ModuleList(
            Route([(getattr(cell, slot), r) for slot in "xy" for r, cell in enumerate(of_runs)], held)
            for of_runs in cells
        )
        steps = [[StepRoutes(of_step) for of_step in zip(*(c.steps for c in cell), strict=True)] for cell in cells]
        self.steps = nn.ModuleList(map(nn.ModuleList, steps))
        self.users = [[step.users for step in of_cell] for of_cell in steps]

    def cell(self, i: int, layers: Mapping[str, Tensor], outputs: Sequence[Tensor]) -> Slots:
        """Return what cell i reads of the layers and of the earlier cells' outputs."""
        values = {**layers, **{cell_name(j): value for j, value in enumerate(outputs)}}
        x, y = self.cells[i](values).chunk(2)
        return x, y

    def step(self, i: int, t: int, x: Tensor, y: Tensor, outputs: Sequence[Tensor]) -> Iterator[Slots]:
        """Return what each operation of step t of cell i reads of the cell's inputs and the earlier steps' outputs."""
        values = {"x": x, "y": y, **{step_name(s): value for s, value in enumerate(outputs)}}
        return self.steps[i][t].inputs_of(values)  # type: ignore[index, no-any-return]

    def result(self, i: int, t: int, outputs: Sequence[Tensor]) -> Tensor:
        """Return the output of step t of cell i, out of those of its operations."""
        return self.steps[i][t].output_of(outputs)  # type: ignore[index, no-any-return]


class StepRoutes(nn.Module):
    """The routes of one step. users: {operation: its runs}."""

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__()
        every = tuple(range(len(steps)))
        self.users = users([step.operation] for step in steps)
        by_operation = [r for runs in self.users.values() for r in runs]
        held = {name: every for step in steps for name in (step.x, step.y)}
        self.inputs = nn.ModuleList(Route([(getattr(steps[r], slot), r) for r in by_operation], held) for slot in "xy")
        self.outputs = Route([(step.operation, r) for r, step in enumerate(steps)], self.users)

    def inputs_of(self, values: Mapping[str, Tensor]) -> Iterator[Slots]:
        """Return what each operation reads of values {"x", "y" or an earlier step: (R, B, L, C)}."""
        sizes = [len(runs) for runs in self.users.values()]
        x, y = (route(values).split(sizes) for route in self.inputs)
        return zip(x, y, strict=True)

    def output_of(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return (R, B, L, C), each run's of its own operation, of the operations' outputs."""
        return self.outputs(dict(zip(self.users, outputs, strict=True)))  # type: ignore[no-any-return]


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


def users(choices: Iterable[Iterable[str]]) -> dict[str, Runs]:
    """Return {name: the runs that choose it}, in the order of first use, of what every run chooses."""
    found: dict[str, Runs] = {}
    for r, names in enumerate(choices):
        for name in names:
            found[name] = (*found.get(name, ()), r)
    return found
