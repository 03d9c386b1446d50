"""Search strategies, replayed where every training is known: what each would have trained, and in which order.

A strategy asks for one architecture after the other (`yield` gives its number, and gets its AUC on val back) until
nobody answers any more; so it cannot know more than it was told. None asks for an architecture twice. After n
answers, the best of them on val is what it found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
Neighbours = Sequence[Places]
"""Per architecture, those that differ in one choice."""
Asking = Generator[int, float, None]
Strategy = Callable[[Neighbours, np.random.Generator], Asking]

POPULATION, TOURNAMENT = 16, 4


def random_search(neighbours: Neighbours, random: np.random.Generator) -> Asking:
    """Asks for all in random order."""
    for place in random.permutation(len(neighbours)):
        yield int(place)


def evolution(neighbours: Neighbours, random: np.random.Generator) -> Asking:
    """Regularised evolution (Real et al. 2019, arXiv 1802.01548): POPULATION at random, then always a child.

    It differs in one choice from the best of TOURNAMENT drawn ones, and the oldest dies. Children are new: where all
    that differ in one choice are known, another one is drawn at random.
    """
    known = np.full(len(neighbours), np.nan)
    living: deque[int] = deque(maxlen=POPULATION)
    for place in map(int, random.permutation(len(neighbours))[:POPULATION]):
        known[place] = yield place
        living.append(place)
    while np.isnan(known).any():
        drawn = [living[i] for i in random.choice(len(living), min(TOURNAMENT, len(living)), replace=False)]
        parent = max(drawn, key=lambda place: known[place])
        new = [place for place in neighbours[parent] if np.isnan(known[place])]
        child = int(random.choice(new or np.flatnonzero(np.isnan(known))))
        known[child] = yield child
        living.append(child)


def first_improvement(neighbours: Neighbours, random: np.random.Generator) -> Asking:
    """Local search (White et al. 2021, arXiv 2005.02960) that goes to the first better neighbour."""
    return _local_search(neighbours, random, at_once=True)


def best_improvement(neighbours: Neighbours, random: np.random.Generator) -> Asking:
    """The same, to the best of all neighbours."""
    return _local_search(neighbours, random, at_once=False)


def _local_search(neighbours: Neighbours, random: np.random.Generator, *, at_once: bool) -> Asking:
    """From a random start uphill until no neighbour is better; then from another one that is not known."""
    known = np.full(len(neighbours), np.nan)
    while np.isnan(known).any():
        best = int(random.choice(np.flatnonzero(np.isnan(known))))
        known[best] = yield best
        here = -1
        while here != best:
            here = best
            for place in map(int, random.permutation(neighbours[here])):
                if np.isnan(known[place]):
                    known[place] = yield place
                if known[place] > known[best]:
                    best = place
                    if at_once:
                        break


STRATEGIES: dict[str, Strategy] = {
    "random search": random_search,
    "regularised evolution": evolution,
    "local search, first better": first_improvement,
    "local search, best of all": best_improvement,
}


def asked(strategy: Strategy, val: Floats, neighbours: Neighbours, random: np.random.Generator, most: int) -> Places:
    """The architectures that it asks for, in order, `most` at most; val: (A,) what it is told of each."""
    asking, order = strategy(neighbours, random), list[int]()
    try:
        place = next(asking)
        while len(order) < most:
            order.append(place)
            place = asking.send(float(val[place]))
    except StopIteration:
        pass
    return np.array(order)


def best_of(order: Places, val: Floats, count: int = 1) -> Places:
    """The `count` best on val of those asked for, the best first; of equal ones, who was asked for first."""
    return order[np.argsort(-val[order], kind="stable")[:count]]


def halved(curves: Floats, budget: int, random: np.random.Generator) -> int | None:
    """What successive halving finds for the price of `budget` trainings; None where it needs another budget.

    Twice as many architectures are drawn; a quarter of a training later half of them go on, a quarter after another
    quarter. What decides is the mean AUC on val over the epochs since the last cut, and in the end the best epoch.
    curves: (A, E) AUC on val after each epoch.
    """
    count, epochs = 2 * budget, curves.shape[1]
    if count % 4 or count > len(curves):
        return None
    left, quarter = random.permutation(len(curves))[:count], epochs // 4
    for rung in range(2):
        worth = curves[left, rung * quarter : (rung + 1) * quarter].mean(1)
        left = left[np.argsort(-worth, kind="stable")[: len(left) // 2]]
    return int(left[curves[left].max(1).argmax()])
