"""Neighbours."""

from collections.abc import Iterator

from nas.config import SpaceName
from nas.genotype import Cell, Genotype, Step
from nas.space import Candidates


def neighbours(genotype: Genotype, candidates: Candidates, space: SpaceName) -> list[Genotype]:
    """Return the genotypes of the space that differ in one choice: an input, two exchanged inputs, or an operation."""
    found = []
    for i, (cell, options) in enumerate(zip(genotype.cells, candidates.cells, strict=True)):
        others = {frozenset((c.x, c.y)) for j, c in enumerate(genotype.cells) if j != i}
        changed: list[Cell] = [
            cell.model_copy(update={"x": x, "y": y})
            for x, y in _pairs(cell, options.inputs, space)
            if frozenset((x, y)) not in others
        ]
        for t, (step, of_step) in enumerate(zip(cell.steps, options.steps, strict=True)):
            new = [step.model_copy(update={"x": x, "y": y}) for x, y in _pairs(step, of_step.inputs, space)]
            new += [step.model_copy(update={"operation": o}) for o in of_step.operations if o != step.operation]
            changed += [cell.model_copy(update={"steps": (*cell.steps[:t], s, *cell.steps[t + 1 :])}) for s in new]
        found += [Genotype(cells=(*genotype.cells[:i], c, *genotype.cells[i + 1 :])) for c in changed]
    return found


def _pairs(node: Cell | Step, names: tuple[str, ...], space: SpaceName) -> Iterator[tuple[str, str]]:
    """Yield the pairs of inputs that differ from a node's in one; in "bmnas" the order of a pair is no choice."""
    for name in names:
        if name not in (node.x, node.y):
            for pair in ((name, node.y), (node.x, name)):
                yield pair if space == "slots" or names.index(pair[0]) < names.index(pair[1]) else pair[::-1]
    if space == "slots":
        yield node.y, node.x
