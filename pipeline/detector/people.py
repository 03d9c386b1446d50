"""The faces of a file over its stretches: which windows show each, and which of two stretches are one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.faces.clip import Shown
from pipeline.faces.following import iou
from pipeline.faces.tracks import Track
from pipeline.features.amounts import face_windows

_SAME_IOU = 0.5
"""Of boxes at one moment: two faces do not cover each other by half; one face found twice does by nearly all."""


@dataclass(frozen=True)
class Face:
    """A face that was followed without a cut, in the windows of a stretch that show it often enough.

    After a cut nobody knows who is seen: the same person's face is another one then.
    """

    number: int
    """In the whole file."""
    is_main: bool
    """Whether it is the main face in any of its windows."""
    first_s: float
    last_s: float
    starts_s: tuple[float, ...]
    layers: Mapping[str, NDArray[Any]] = field(repr=False)
    """As `Walked` has them, of its windows."""
    face_windows: float


class Numbers:
    """Numbers the faces of a file, stretch by stretch; one that two stretches show at the same moment keeps its own.

    Where stretches share no moment, as with a hop that leaves something out, nobody knows who comes next.
    """

    def __init__(self) -> None:
        self._free, self._before = count(), list[tuple[int, Track]]()

    def of(self, tracks: Sequence[Track]) -> list[int]:
        """A number for each track of the next stretch."""
        left, found = self._before, list[int]()
        for track in tracks:
            same = [pair for pair in left if _same(pair[1], track)]
            left = [pair for pair in left if pair not in same[:1]]
            found.append(same[0][0] if same else next(self._free))
        self._before = list(zip(found, tracks, strict=True))
        return found


def _same(before: Track, after: Track) -> bool:
    first, last = max(before.times_s[0], after.times_s[0]), min(before.times_s[-1], after.times_s[-1])
    if first > last:
        return False
    middle = np.array([(first + last) / 2])
    return bool(iou(before.at(middle).boxes, after.at(middle).boxes)[0] >= _SAME_IOU)


Made = tuple[Shown, Mapping[str, NDArray[Any]], Collection[int]]
"""(What was cut, {layer: (windows, L, C_in)} of it, the numbers of its windows that cannot be scored)"""


def faces_of(made: Sequence[Made], numbers: Numbers) -> Iterator[Face]:
    """Yields the faces of a stretch with all their windows, in order of time; made: the main face's windows first."""
    tracks = list({id(track): track for shown, _, _ in made for track in shown.tracks}.values())
    for number, track in zip(numbers.of(tracks), tracks, strict=True):
        mine = [[i for i, of in enumerate(shown.tracks) if of is track and i not in bad] for shown, _, bad in made]
        parts = [(shown.windowed, rows, at) for (shown, rows, _), at in zip(made, mine, strict=True) if at]
        if not parts:
            continue
        starts = [seen.starts_s[i] for seen, _, at in parts for i in at]
        order = np.argsort(starts)
        yield Face(
            number=number,
            is_main=bool(mine[0]),
            first_s=float(track.times_s[0]),
            last_s=float(track.times_s[-1]),
            starts_s=tuple(starts[i] for i in order),
            layers={name: np.concatenate([rows[name][at] for _, rows, at in parts])[order] for name in made[0][1]},
            face_windows=sum(face_windows(seen.arrays["probabilities"][at]) for seen, _, at in parts),
        )
