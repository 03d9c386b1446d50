"""From a trained supernet to a genotype: drawn candidates and their neighbours, judged by the shared weights."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from nas.config import SpaceName
from nas.data import Dataset
from nas.genotype import Cell, Genotype, Step
from nas.scoring import val_scores
from nas.space import Candidates


def best_of(
    drawn: Sequence[Genotype],
    candidates: Candidates,
    space: SpaceName,
    data: Dataset,
    weights: Mapping[str, Tensor],
    *,
    count: int,
) -> Genotype:
    """Return the best genotype by AUC on val under one run's weights {name: (1, ...)}, of `count` that are compared.

    First those drawn, then the neighbours of the best one, then those of the best one whose neighbours are not yet
    compared, and so on: a draw gets one of its many choices wrong more easily than all of them right.
    """
    scores: dict[Genotype, float] = {}
    expanded: set[Genotype] = set()
    pending = list(dict.fromkeys(drawn))[:count]
    while pending:
        scores |= zip(pending, val_scores(data, pending, weights).tolist(), strict=True)
        pending = []
        while not pending and len(expanded) < len(scores) < count:
            best = max((g for g in scores if g not in expanded), key=lambda g: scores[g])
            expanded.add(best)
            new = [g for g in neighbours(best, candidates, space) if g not in scores]
            pending = new[: count - len(scores)]
    return max(scores, key=lambda genotype: scores[genotype])


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
