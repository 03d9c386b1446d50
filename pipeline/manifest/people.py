"""Deals people, one by one, to the splits: so many of every demographic group, and so that few clips are lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cache_schemas.manifest import Clip, ManifestError

_TRIES, _TRIES_EACH = 10_000, 20
"""At most so many exchanges of two people are tried, in all and per person: about a second."""
_EPSILON = 1e-9  # 50 people times 1 - 0.2 - 0.2 are 30


def deal_people(clips: Sequence[Clip], shares: Mapping[str, float], *, seed: int) -> dict[str, str]:
    """{person: split}. Each split gets its share of the people of every group, to less than one person.

    Who of a group goes where is drawn; then people of the same group change places where that raises the sum of
    share * log(clips kept + 1) over splits and categories: so few clips as possible have people of two splits, and
    what is kept of a category lies as near to the shares as people allow. The clips' order does not matter.
    Raises ManifestError for fewer people than splits.
    """
    random = np.random.default_rng(seed)
    names, group_of = list(shares), _group_of(clips)
    if len(group_of) < len(names):
        raise ManifestError(f"{len(group_of)} people cannot fill {', '.join(names)}: at least {len(names)} are needed")
    people = sorted(group_of)
    number_of = {person: number for number, person in enumerate(people)}
    groups = [
        np.array([number_of[person] for person in people if group_of[person] == group])
        for group in sorted(set(group_of.values()))
    ]
    wanted = np.array(list(shares.values()))
    side = np.zeros(len(people), int)
    for group, seats in zip(groups, _seats([len(group) for group in groups], wanted), strict=True):
        side[random.permutation(group)] = np.repeat(np.arange(len(names)), seats)
    _exchange(side, groups, _Kept(clips, number_of, wanted), random)
    return {person: names[chosen] for person, chosen in zip(people, side, strict=True)}


def _group_of(clips: Sequence[Clip]) -> dict[str, str]:
    """{person: the group of most clips of theirs, or, of who is nobody's subject, of most clips they are in}."""
    own: dict[str, Counter[str]] = {}
    among: dict[str, Counter[str]] = {}
    for clip in clips:
        own.setdefault(clip.subject_id, Counter())[clip.group] += 1
        for person in clip.people:
            among.setdefault(person, Counter())[clip.group] += 1
    return {person: min(found, key=lambda group: (-found[group], group)) for person, found in (among | own).items()}


def _seats(sizes: Sequence[int], shares: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Per group, how many of its people go to each split: the share, rounded down or up, where it is up the split
    that has fewest of all groups so far. So groups of one or two people come out even, too.
    """
    result: list[NDArray[np.int64]] = []
    short = np.zeros(len(shares))
    for size in sizes:
        exact = size * shares + _EPSILON
        seats = np.floor(exact).astype(np.int64)
        short += exact - seats
        # Only what is not whole is rounded up.
        order = sorted(np.flatnonzero(exact - seats > 2 * _EPSILON).tolist(), key=lambda s: -round(float(short[s]), 6))
        up = order[: size - seats.sum()]
        seats[up] += 1
        short[up] -= 1
        result.append(seats)
    return result


class _Kept:
    """How many clips of each category lie wholly in each split."""

    def __init__(self, clips: Sequence[Clip], number_of: Mapping[str, int], shares: NDArray[np.float64]) -> None:
        casts = [sorted(number_of[person] for person in clip.people) for clip in clips]
        most = max(map(len, casts))
        self._casts = np.array([cast + cast[:1] * (most - len(cast)) for cast in casts])  # (clips, people)
        categories, category = np.unique([clip.category for clip in clips], return_inverse=True)
        self._category, self._shape = category, (len(shares), len(categories))
        self._shares = shares
        clip, person = np.repeat(np.arange(len(casts)), [len(cast) for cast in casts]), np.concatenate(casts)
        by_person = np.argsort(person, kind="stable")
        self.clips_of = np.split(clip[by_person], np.cumsum(np.bincount(person, minlength=len(number_of)))[:-1])

    def count(self, side: NDArray[np.int64], clips: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.int64]:
        """(splits, categories), of those clips."""
        sides = side[self._casts[clips]]
        whole = (sides == sides[:, :1]).all(axis=1)
        cell = sides[whole, 0] * self._shape[1] + self._category[clips][whole]
        return np.bincount(cell, minlength=self._shape[0] * self._shape[1]).reshape(self._shape)

    def worth(self, count: NDArray[np.int64]) -> float:
        return float(self._shares @ np.log(count + 1.0).sum(axis=1))


def _exchange(
    side: NDArray[np.int64], groups: Sequence[NDArray[np.int64]], kept: _Kept, random: np.random.Generator
) -> None:
    """Lets people of a group change places, in `side`, wherever that is worth it."""
    count = kept.count(side)
    worth = kept.worth(count)
    group_of = {int(person): group for group in groups for person in group}
    for _ in range(min(_TRIES, _TRIES_EACH * len(side))):
        one = int(random.integers(len(side)))
        other = int(random.choice(group_of[one]))
        if side[one] == side[other]:
            continue
        # A clip of both stands here twice, but is kept neither before nor after.
        clips = np.concatenate([kept.clips_of[one], kept.clips_of[other]])
        before = kept.count(side, clips)
        side[[one, other]] = side[[other, one]]
        changed = count - before + kept.count(side, clips)
        if (better := kept.worth(changed)) > worth + 1e-9:
            count, worth = changed, better
        else:
            side[[one, other]] = side[[other, one]]
