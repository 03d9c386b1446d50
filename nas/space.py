"""The search space: what every site may read, every architecture of it, and which of them compute the same function.

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
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from nas.config import SpaceName
from nas.genotype import Cell, Genotype, Step, cell_name, step_inputs, step_name
from nas.names import DEFAULT_OPERATIONS
from nas.primitives import OPERATIONS

MISSES = 200
"""A sample ends when so many draws in a row give nothing new: the space holds no more, or hardly."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class Space:
    """What a search may derive: cells of `steps` steps over the layers, in their order.

    A cell reads layers and earlier cells, no two cells the same pair; a step reads x, y and earlier steps.
    """

    layers: tuple[str, ...]
    cells: int = 1
    steps: int = 1
    kind: SpaceName = "slots"
    operations: tuple[str, ...] = DEFAULT_OPERATIONS

    def cell_inputs(self, index: int) -> tuple[str, ...]:
        """Return what the cell of the given index may read: the layers come first."""
        return (*self.layers, *map(cell_name, range(index)))

    def genotypes(self) -> Iterator[Genotype]:
        """Yield every genotype that a search in this space can derive, once."""
        inner = list(itertools.product(*(self._steps(t) for t in range(self.steps))))
        inputs = [self._pairs(self.cell_inputs(i)) for i in range(self.cells)]
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
        kinds = sorted({_mixed(pair) for pair in self._pairs(self.layers)})
        total = len(kinds) * len(self.operations) ** (self.cells * self.steps)
        # Numbers: a wide space has more strata than memory holds, or than a range may have.
        few = total <= sys.maxsize
        strata = (
            source.sample(range(total), min(total, count)) if few else [source.randrange(total) for _ in range(count)]
        )
        misses = 0
        for stratum in itertools.cycle(strata):
            if len(found) >= count or misses >= MISSES * len(strata):
                break
            number, kind = divmod(stratum, len(kinds))
            genotype = canonical(self._draw(source, number, kinds[kind]))
            misses = misses + 1 if genotype in found else 0
            found[genotype] = None
        return list(found)

    def neighbours(self, genotype: Genotype) -> list[Genotype]:
        """Return the genotypes that differ in one choice: an input, two exchanged inputs, or an operation."""
        found = []
        for i, cell in enumerate(genotype.cells):
            others = {frozenset((c.x, c.y)) for j, c in enumerate(genotype.cells) if j != i}
            pairs = [pair for pair in self._beside(cell, self.cell_inputs(i)) if frozenset(pair) not in others]
            changed = [cell.model_copy(update={"x": x, "y": y}) for x, y in pairs]
            for t, step in enumerate(cell.steps):
                new = [step.model_copy(update={"x": x, "y": y}) for x, y in self._beside(step, step_inputs(t))]
                new += [step.model_copy(update={"operation": o}) for o in self.operations if o != step.operation]
                changed += [cell.model_copy(update={"steps": (*cell.steps[:t], s, *cell.steps[t + 1 :])}) for s in new]
            found += [Genotype(cells=(*genotype.cells[:i], c, *genotype.cells[i + 1 :])) for c in changed]
        return found

    def _beside(self, node: Cell | Step, names: Sequence[str]) -> list[Pair]:
        """Return the pairs that differ from a node's in one name; in "bmnas" the order of a pair is no choice."""
        own = (node.x, node.y)
        if self.kind == "bmnas":
            return [pair for pair in self._pairs(names) if len({*pair} & {*own}) == 1]
        return [
            pair for pair in self._pairs(names) if (pair[0] == own[0]) + (pair[1] == own[1]) == 1 or pair == own[::-1]
        ]

    def _pairs(self, names: Sequence[str]) -> list[Pair]:
        choose = itertools.permutations if self.kind == "slots" else itertools.combinations
        return list(choose(names, 2))

    def _steps(self, index: int) -> list[Step]:
        pairs = self._pairs(step_inputs(index))
        return [Step(x=x, y=y, operation=name) for x, y in pairs for name in self.operations]

    def _draw(self, source: Random, number: int, mixed: bool) -> Genotype:
        """Return a genotype whose operations are the digits of a number, and whose first pair is mixed or is not."""
        pairs: list[Pair] = []
        for i in range(self.cells):
            free = [
                pair
                for pair in self._pairs(self.cell_inputs(i))
                if frozenset(pair) not in map(frozenset, pairs) and (i > 0 or _mixed(pair) == mixed)
            ]
            pairs.append(source.choice(free))
        inputs = [self._pairs(step_inputs(t)) for t in range(self.steps)]
        cells = []
        for _ in pairs:
            steps = []
            for x, y in [source.choice(of_step) for of_step in inputs]:
                number, digit = divmod(number, len(self.operations))
                steps.append(Step(x=x, y=y, operation=self.operations[digit]))
            cells.append(tuple(steps))
        return _genotype(pairs, cells)


def canonical(genotype: Genotype) -> Genotype:
    """Return the one genotype that stands for all that compute the same function (see the module's text)."""
    cells = []
    for cell in genotype.cells:
        steps = [_Node(step.x, step.y, step.operation, OPERATIONS[step.operation].symmetric) for step in cell.steps]
        cells.append(_Node(cell.x, cell.y, tuple(_Order(steps, step_name).written())))
    pairs, inner = [], []
    for x, y, written in _Order(cells, cell_name).written():
        pairs.append((x, y))
        inner.append(tuple(Step(x=a, y=b, operation=operation) for a, b, operation in written))
    return _genotype(pairs, inner)


@dataclass(frozen=True)
class _Node:
    """A step or cell. label: its operation, or its steps."""

    x: str
    y: str
    label: Any
    symmetric: bool = False

    def reads(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Return (name, slot) of both inputs; those of a symmetric operation have no slots."""
        return (self.x, "" if self.symmetric else "x"), (self.y, "" if self.symmetric else "y")


class _Order:
    """Puts nodes into the one order, each behind what it reads, that does not depend on how they were numbered.

    Of the nodes whose inputs are placed, the least comes next: as it is written under the names of those placed; then
    by who reads it, and who reads its readers (`_colours`). Nodes that are alike in all this mostly stand for each
    other: where the rest can be put in the same words behind either, it does not matter which comes first. Else the
    order with the least words is taken.
    """

    def __init__(self, nodes: Sequence[_Node], name: Callable[[int], str]) -> None:
        self.nodes, self.names = nodes, [name(i) for i in range(len(nodes))]
        self.places = {name: i for i, name in enumerate(self.names)}
        self.readers: list[list[tuple[str, int]]] = [[] for _ in nodes]
        for i, node in enumerate(nodes):
            for read, slot in node.reads():
                if read in self.places:
                    self.readers[self.places[read]].append((slot, i))

    def written(self, placed: tuple[int, ...] = (), *, first: bool = False) -> list[Any]:
        """Return (x, y, label) of every node behind those placed. first: of nodes that are alike, take any."""
        found: list[Any] = []
        while len(placed) < len(self.nodes):
            least, alike = self._next(placed)
            if len(alike) > 1 and not first:
                apart = {tuple(self.written((*placed, i), first=True)): i for i in alike}
                if len(apart) > 1:
                    return [*found, least, *min(self.written((*placed, i)) for i in apart.values())]
            found.append(least)
            placed = (*placed, alike[0])
        return found

    def _next(self, placed: tuple[int, ...]) -> tuple[Any, list[int]]:
        """Return what comes next, written down, and the nodes that may be it."""
        new = {self.names[i]: name for i, name in zip(placed, self.names, strict=False)}
        ready = {
            i: self._write(node, new)
            for i, node in enumerate(self.nodes)
            if self.names[i] not in new and all(read in new for read, _ in node.reads() if read in self.places)
        }
        least = min(ready.values())
        # Nodes that the same nodes read in the same way are interchangeable.
        alike = list({tuple(sorted(self.readers[i])): i for i in ready if ready[i] == least}.values())
        if len(alike) > 1:
            colours = self._colours(placed)
            alike = [i for i in alike if colours[i] == min(colours[j] for j in alike)]
        return least, alike

    def _write(self, node: _Node, new: Mapping[str, str]) -> tuple[str, str, Any]:
        x, y = (new.get(name, name) for name in (node.x, node.y))
        if node.symmetric and _place(y) < _place(x):
            x, y = y, x
        return x, y, node.label

    def _colours(self, placed: tuple[int, ...]) -> list[int]:
        """Return a number per node, equal where nothing tells nodes apart: own label, place, inputs and readers."""
        colours = [placed.index(i) + 1 if i in placed else 0 for i in range(len(self.nodes))]
        while True:
            seen = [
                (
                    colours[i],
                    node.label,
                    tuple(sorted((slot, *self._read(name, colours)) for name, slot in node.reads())),
                    tuple(sorted((slot, colours[reader]) for slot, reader in self.readers[i])),
                )
                for i, node in enumerate(self.nodes)
            ]
            ranks = sorted(set(seen))
            if len(ranks) == len(set(colours)):
                return colours
            colours = [ranks.index(one) for one in seen]

    def _read(self, name: str, colours: Sequence[int]) -> tuple[str, int]:
        return ("", colours[self.places[name]]) if name in self.places else (name, 0)


def _place(name: str) -> tuple[int, str]:
    """Return a sort key that puts "x" and "y" before steps, and "step2" before "step10"."""
    return (len(name), name)


def _mixed(pair: Pair) -> bool:
    return pair[0].partition("/")[0] != pair[1].partition("/")[0]


def _genotype(pairs: Sequence[Pair], steps: Sequence[tuple[Step, ...]]) -> Genotype:
    return Genotype(cells=tuple(Cell(x=x, y=y, steps=inner) for (x, y), inner in zip(pairs, steps, strict=True)))
