"""The one-hot mix of genotypes: what makes a supernet the networks that they are."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nas import Cell, Genotype, Step
from nas.genotype import step_inputs
from nas.reading import CellMix, Mix
from nas.space import Space


def fixed_mix(space: Space, genotypes: Sequence[Genotype], device: torch.device) -> Mix:
    """Return the one-hot mix that makes run r of a network the architecture genotypes[r]."""

    def slots(names: tuple[str, ...], nodes: Sequence[Cell | Step]) -> Tensor:
        return torch.stack([_one_hot(names, [getattr(n, slot) for n in nodes], device) for slot in ("x", "y")], 1)

    cells = []
    for i in range(space.cells):
        chosen = [genotype.cells[i] for genotype in genotypes]
        steps = [[cell.steps[t] for cell in chosen] for t in range(space.steps)]
        cells.append(
            CellMix(
                slots(space.cell_inputs(i), chosen),
                tuple(slots(step_inputs(t), nodes) for t, nodes in enumerate(steps)),
                tuple(_one_hot(space.operations, [node.operation for node in nodes], device) for nodes in steps),
            )
        )
    return tuple(cells)


def _one_hot(names: tuple[str, ...], chosen: Sequence[str], device: torch.device) -> Tensor:
    indices = torch.tensor([names.index(name) for name in chosen], device=device)
    return torch.nn.functional.one_hot(indices, len(names)).float()
