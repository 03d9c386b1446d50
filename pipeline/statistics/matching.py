"""Fakes and reals that are alike in the files' properties: what a system tells apart there is not told by those."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.statistics.metrics import Floats, two_classes
from pipeline.statistics.strength import log_odds

CALIPER = 0.2
"""Of the standard deviation of the log odds, as Austin recommends (Pharmaceutical Statistics 2011, 10.1002/pst.433)."""

Places = NDArray[np.intp]


def matched(labels: ArrayLike, scores: ArrayLike, *, seed: int, caliper: float = CALIPER) -> Places:
    """(pairs, 2) a fake and a real clip each, alike in P(fake) as the properties alone tell it: `scores` (clips,).

    Clips of the rarer class, in random order, get the nearest of the other one that is still free and within the
    caliper: 1:1 and without replacement. Raises UndefinedMetricError for one class only.
    """
    y, s = two_classes(labels, scores)
    odds, random = log_odds(s), np.random.default_rng(seed)
    fakes, reals = (random.permutation(np.flatnonzero(y == label)) for label in (1, 0))
    spread = float(np.sqrt((odds[fakes].var() + odds[reals].var()) / 2))
    few, many = (fakes, reals) if len(fakes) <= len(reals) else (reals, fakes)
    many = many[np.argsort(odds[many], kind="stable")]  # equals stay in random order
    partner = _nearest(odds[few], odds[many], caliper * spread)
    pairs = np.stack([few[partner >= 0], many[partner[partner >= 0]]], axis=1)
    return pairs if few is fakes else pairs[:, ::-1]


def _nearest(values: Floats, among: Floats, caliper: float) -> Places:
    """(values,) which of `among`, ascending, each gets in turn; -1 for none."""
    below, above = _Free(len(among) + 1), _Free(len(among) + 1)  # below counts from the other end
    partner = np.full(len(values), -1)
    for i, place in enumerate(np.searchsorted(among, values)):
        right = above.first(int(place))
        left = len(among) - 1 - below.first(len(among) - int(place))
        near = [j for j in (left, right) if 0 <= j < len(among) and abs(among[j] - values[i]) <= caliper]
        if near:
            chosen = min(near, key=lambda j: abs(among[j] - values[i]))
            partner[i] = chosen
            above.take(chosen)
            below.take(len(among) - 1 - chosen)
    return partner


class _Free:
    """Which places are not taken yet; the last never is."""

    def __init__(self, places: int) -> None:
        self._next = list(range(places))

    def first(self, place: int) -> int:
        """The first free one from here on."""
        end = place
        while self._next[end] != end:
            end = self._next[end]
        while self._next[place] != end:
            self._next[place], place = end, self._next[place]
        return end

    def take(self, place: int) -> None:
        self._next[place] = place + 1
