"""The search space: candidates of every site, and mixes that say how much of each candidate is read.

A mix out of architecture parameters makes a supernet; a one-hot mix out of a genotype makes a derived network.
Both go through the same forward pass.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.genotype import Cell, Genotype, Step, cell_name, is_layer, step_inputs
from nas.primitives import DEFAULT_OPERATIONS


@dataclass(frozen=True)
class StepCandidates:
    """What a step may read, and the operations that it may use."""

    inputs: tuple[str, ...]
    operations: tuple[str, ...]


@dataclass(frozen=True)
class CellCandidates:
    """What a cell may read, and its steps."""

    inputs: tuple[str, ...]
    steps: tuple[StepCandidates, ...]


@dataclass(frozen=True)
class Candidates:
    """Every site of a network with its candidates."""

    cells: tuple[CellCandidates, ...]

    @classmethod
    def full(
        cls, layers: Sequence[str], cells: int, steps: int, operations: Sequence[str] = DEFAULT_OPERATIONS
    ) -> "Candidates":
        """Return the whole space: every layer and earlier cell, every earlier step, every given operation."""
        candidates = tuple(StepCandidates(step_inputs(t), tuple(operations)) for t in range(steps))
        return cls(
            tuple(CellCandidates((*layers, *(cell_name(i) for i in range(cell))), candidates) for cell in range(cells))
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that some cell may read."""
        return _unique(name for cell in self.cells for name in cell.inputs if is_layer(name))


@dataclass(frozen=True)
class CellMix:
    """How much one cell reads of each candidate; rows x and y of a site's inputs are its two slots.

    inputs: (R, 2, inputs of the cell); steps[t]: (R, 2, inputs of step t); operations[t]: (R, operations). One row
    instead of two: both slots read the same mixture.
    """

    inputs: Tensor
    steps: tuple[Tensor, ...]
    operations: tuple[Tensor, ...]


@dataclass(frozen=True)
class Mix:
    """How much every site of every cell reads of each candidate."""

    cells: tuple[CellMix, ...]


def fixed_mix(candidates: Candidates, genotypes: Sequence[Genotype], device: torch.device) -> Mix:
    """Return the one-hot mix that makes run r of a network the architecture genotypes[r]."""

    def slots(names: tuple[str, ...], nodes: Sequence[Cell | Step]) -> Tensor:
        return torch.stack([_one_hot(names, [getattr(n, slot) for n in nodes], device) for slot in ("x", "y")], 1)

    cells = []
    for i, cell in enumerate(candidates.cells):
        chosen = [genotype.cells[i] for genotype in genotypes]
        steps = [[c.steps[t] for c in chosen] for t in range(len(cell.steps))]
        cells.append(
            CellMix(
                slots(cell.inputs, chosen),
                tuple(slots(s.inputs, nodes) for s, nodes in zip(cell.steps, steps, strict=True)),
                tuple(
                    _one_hot(s.operations, [node.operation for node in nodes], device)
                    for s, nodes in zip(cell.steps, steps, strict=True)
                ),
            )
        )
    return Mix(tuple(cells))


def _one_hot(names: tuple[str, ...], chosen: Sequence[str], device: torch.device) -> Tensor:
    indices = torch.tensor([names.index(name) for name in chosen], device=device)
    return torch.nn.functional.one_hot(indices, len(names)).float()


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
