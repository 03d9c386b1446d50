"""Which pieces of a clip are looked at, and what is made of them: in memory, whatever it is written to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class ClipWindows:
    """The windows of one clip. Picture and sound are both read from here, so they cannot drift apart."""

    clip_id: str
    starts_s: tuple[float, ...]
    available_s: float
    """Length of what there is from each start, at most a window; less in a short clip."""

    @property
    def covered_s(self) -> float:
        """Seconds of the clip that are in a window; those in two count once."""
        return self.available_s + sum(min(b - a, self.available_s) for a, b in pairwise(self.starts_s))


@dataclass(frozen=True)
class Windowed:
    """What was made of a clip: row i of every array is of the window that begins at `starts_s[i]`."""

    starts_s: tuple[float, ...]
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    """{name: (windows, ...)}"""
    info: Mapping[str, Any] = field(default_factory=dict)
    """Of the whole clip, plain JSON."""

    def by_start(self) -> dict[float, dict[str, NDArray[Any]]]:
        """{start_s: the arrays of that window}."""
        return {start: {name: x[i] for name, x in self.arrays.items()} for i, start in enumerate(self.starts_s)}
