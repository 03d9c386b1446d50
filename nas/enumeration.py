"""Every architecture of a space, and which of them compute the same function.

How many there are (n layers, one cell, K = 4 default operations of which 3 are symmetric):

    genotypes that a search derives            T = 1                            T = 2
    space bmnas: unordered pairs               C(n, 2) K                        C(n, 2) K * 3 K
    n = 8                                      28 * 4 = 112                     112 * 12 = 1,344
    space slots: ordered pairs                 n (n - 1) 2 K                    n (n - 1) 2 K * 6 K
    n = 8                                      56 * 8 = 448                     448 * 24 = 10,752

    different functions among them
    bmnas, n = 8                               112                              28 * (10 + 16 + 16) = 1,176
    slots, n = 8                               56 * 5 = 280                     56 * (15 + 25 + 25) = 3,640

Two genotypes compute the same function when one becomes the other by renaming steps and cells and by exchanging the
inputs of symmetric operations: some permutation of the weights then makes their outputs equal. In bmnas with T = 2, the
two steps of the K^2 pairs that both read (x, y) may change places: K (K + 1) / 2 = 10 remain. In slots attention
(queries x, or queries y) makes 5 choices of an operation on a pair. The two inputs of a cell are no such symmetry: the
first is the residual. Nothing is ever unused: a cell's output is the sum of all its steps, the network reads all cells.
Architectures that only *can* express one another, as a ConcatFC of (x, x + y) and one of (x, y), count as different:
they start elsewhere, train differently and have other penalties.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from nas.config import SpaceName
from nas.genotype import Cell, Genotype, Step, cell_name, step_inputs, step_name
from nas.primitives import DEFAULT_OPERATIONS, OPERATIONS

MISSES = 200
"""A sample ends when so many draws in a row give nothing new: the space holds no more, or hardly."""


@dataclass(frozen=True)
class Space:
    """What a search may derive: cells of `steps` steps over the layers, in their order."""

    layers: tuple[str, ...]
    cells: int = 1
    steps: int = 1
    kind: SpaceName = "slots"
    operations: tuple[str, ...] = DEFAULT_OPERATIONS

    def genotypes(self) -> Iterator[Genotype]:
        """Yield every genotype that a search in this space can derive, once."""
        inner = list(itertools.product(*(self._steps(t) for t in range(self.steps))))
        inputs = [self._pairs((*self.layers, *map(cell_name, range(i)))) for i in range(self.cells)]
        for pairs in itertools.product(*inputs):
            if len({frozenset(pair) for pair in pairs}) == len(pairs):
                for steps in itertools.product(inner, repeat=self.cells):
                    yield _genotype(pairs, steps)

    def distinct(self) -> list[Genotype]:
        """Return the canonical genotype of every function in the space, in the order of first appearance."""
        return list(dict.fromkeys(canonical(genotype) for genotype in self.genotypes()))

    def sample(self, count: int, seed: int) -> list[Genotype]:
        """Return at most `count` different canonical genotypes, the same ones for the same seed.

        Strata are drawn in turn: the operations of all steps, and whether the first cell reads one modality or both.
        """
        source = Random(seed)  # noqa: S311 - no secret
        found: dict[Genotype, None] = {}
        kinds = self._kinds()
        total = len(kinds) * len(self.operations) ** (self.cells * self.steps)
        strata = source.sample(range(total), min(total, count))  # numbers: a wide space has more than memory holds
        misses = 0
        for stratum in itertools.cycle(strata):
            if len(found) >= count or misses >= MISSES * len(strata):
                break
            number, kind = divmod(stratum, len(kinds))
            genotype = canonical(self._draw(source, self._operations(number), kinds[kind]))
            misses = misses + 1 if genotype in found else 0
            found[genotype] = None
        return list(found)

    def _pairs(self, names: Sequence[str]) -> list[tuple[str, str]]:
        choose = itertools.permutations if self.kind == "slots" else itertools.combinations
        return list(choose(names, 2))

    def _steps(self, index: int) -> list[Step]:
        pairs = self._pairs(step_inputs(index))
        return [Step(x=x, y=y, operation=name) for x, y in pairs for name in self.operations]

    def _kinds(self) -> list[bool]:
        """Return whether the first cell's pair may be of one modality (False), of both (True), or either."""
        return sorted({_mixed(pair) for pair in self._pairs(self.layers)})

    def _operations(self, number: int) -> list[str]:
        """Return the operations of all steps that a number stands for: its digits."""
        digits = []
        for _ in range(self.cells * self.steps):
            number, digit = divmod(number, len(self.operations))
            digits.append(self.operations[digit])
        return digits

    def _draw(self, source: Random, operations: Sequence[str], mixed: bool) -> Genotype:
        pairs: list[tuple[str, str]] = []
        for i in range(self.cells):
            free = [
                pair
                for pair in self._pairs((*self.layers, *map(cell_name, range(i))))
                if frozenset(pair) not in map(frozenset, pairs) and (i > 0 or _mixed(pair) == mixed)
            ]
            pairs.append(source.choice(free))
        names = iter(operations)
        inputs = [self._pairs(step_inputs(t)) for t in range(self.steps)]
        cells = []
        for _ in pairs:
            chosen = [source.choice(of_step) for of_step in inputs]
            cells.append(tuple(Step(x=x, y=y, operation=next(names)) for x, y in chosen))
        return _genotype(pairs, cells)


def canonical(genotype: Genotype) -> Genotype:
    """Return the one genotype that stands for all that compute the same function (see the module's text).

    Of all orders in which steps, and cells, come after what they read, it takes the smallest when written down with the
    inputs of symmetric operations sorted.
    """
    inner = [_canonical_steps(cell.steps) for cell in genotype.cells]
    names = [cell_name(i) for i in range(len(inner))]

    def write(index: int, new: Mapping[str, str]) -> tuple[Any, ...]:
        cell = genotype.cells[index]
        return tuple(new.get(name, name) for name in (cell.x, cell.y)), inner[index]

    reads = [[(cell.x, "x"), (cell.y, "y")] for cell in genotype.cells]
    return Genotype(
        cells=tuple(
            Cell(x=x, y=y, steps=tuple(Step(x=a, y=b, operation=name) for a, b, name in steps))
            for (x, y), steps in _smallest(names, reads, write)
        )
    )


def _canonical_steps(steps: Sequence[Step]) -> tuple[tuple[str, str, str], ...]:
    """Return (x, y, operation) of every step, in the smallest order."""

    def write(index: int, new: Mapping[str, str]) -> tuple[str, str, str]:
        step = steps[index]
        x, y = (new.get(name, name) for name in (step.x, step.y))
        if OPERATIONS[step.operation].symmetric:
            x, y = sorted((x, y), key=_place)
        return x, y, step.operation

    reads = [
        [(step.x, ""), (step.y, "")] if OPERATIONS[step.operation].symmetric else [(step.x, "x"), (step.y, "y")]
        for step in steps
    ]
    return tuple(_smallest([step_name(t) for t in range(len(steps))], reads, write))


def _place(name: str) -> tuple[int, str]:
    """Return a sort key that puts "x" and "y" before steps, and "step2" before "step10"."""
    return (len(name), name)


def _smallest(
    names: Sequence[str], reads: Sequence[Sequence[tuple[str, str]]], write: Callable[[int, Mapping[str, str]], Any]
) -> list[Any]:
    """Return the nodes written down in the smallest order in which each comes after the nodes that it reads.

    names: of the nodes, and of the places in the new order; reads: (name, slot) per node; write: a node under the new
    names of earlier ones. Nodes that look alike so far are tried in turn, unless the same nodes read them in the same
    way: then they are interchangeable.
    """
    usage = [frozenset((j, slot) for j, of_j in enumerate(reads) for name, slot in of_j if name == n) for n in names]

    def rest(new: dict[str, str]) -> list[Any]:
        ready = [
            i
            for i, name in enumerate(names)
            if name not in new and all(other in new for other, _ in reads[i] if other in names)
        ]
        if not ready:
            return []
        written = {i: write(i, new) for i in ready}
        least = min(written.values())
        alike = {usage[i]: i for i in ready if written[i] == least}
        return [least, *min(rest({**new, names[i]: names[len(new)]}) for i in alike.values())]

    return rest({})


def notation(genotype: Genotype) -> str:
    """Return the genotype in one line, as "visual/a + audio/b: Sum(x, y), ConcatFC(x, step1)"; cells end with ";"."""
    return "; ".join(
        f"{cell.x} + {cell.y}: " + ", ".join(f"{step.operation}({step.x}, {step.y})" for step in cell.steps)
        for cell in genotype.cells
    )


def _mixed(pair: tuple[str, str]) -> bool:
    return pair[0].partition("/")[0] != pair[1].partition("/")[0]


def _genotype(pairs: Sequence[tuple[str, str]], steps: Sequence[tuple[Step, ...]]) -> Genotype:
    return Genotype(cells=tuple(Cell(x=x, y=y, steps=inner) for (x, y), inner in zip(pairs, steps, strict=True)))
