"""Tables of windows and clips, and what one system says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.statistics.metrics import Floats, Ints
from pipeline.statistics.pooling import POOLS, side_by_side
from pipeline.statistics.values import Chosen, choose


def clips(windows: pd.DataFrame) -> pd.DataFrame:
    """One row a clip, in the order of `windows`: its first window's row, with the clip's own category and label.

    A fake clip is one whatever its windows hold: its fake seconds may be too few in each, or where no face is seen.
    """
    table: pd.DataFrame = windows.drop_duplicates("clip_id").set_index("clip_id")
    category = table["clip_category"]
    return table.assign(category=category, label=category.str.contains("F").astype(int))


@dataclass(frozen=True)
class Side:
    """The clips, or the windows, of one split, as a system scores them."""

    at: NDArray[np.intp]
    """(n,) which row of the table of clips each is, or is a window of"""
    labels: Ints
    """(n,)"""
    scores: Floats
    """(seeds, n)"""

    @property
    def mean(self) -> Floats:
        """(n,) the seeds' mean score: that of the seeds' networks as one system."""
        return np.asarray(self.scores.mean(axis=0))


@dataclass(frozen=True)
class Level:
    """val: what thresholds and calibrations are chosen on; test: what is measured."""

    val: Side
    test: Side

    @cached_property
    def chosen(self) -> Chosen | str:
        """What val decides for the seeds' mean score, or why it cannot."""
        return choose(self.val.labels, self.val.mean)


@dataclass(frozen=True)
class System:
    """All that one system says."""

    seeds: list[int]
    clip: Level
    window: Level
    pooled: Mapping[str, Floats]
    """{way to pool: (test clips,)}: the seeds' mean of the clips' scores"""


def system_of(table: pd.DataFrame, scores: pd.DataFrame) -> System:
    """table: clips by clip_id, sorted; scores: one system's rows of scores.csv, in any order."""
    wide = scores.set_index(["clip_id", "window", "seed"])["score"].unstack("seed")
    about = scores.drop_duplicates(["clip_id", "window"]).set_index(["clip_id", "window"]).loc[wide.index]
    at, rows = table.index.get_indexer(wide.index.get_level_values("clip_id")), wide.to_numpy(float).T
    if (at < 0).any():
        unknown = about.index.get_level_values("clip_id")[int(at.argmin())]
        raise ValueError(f"there are scores of {unknown}, which is not among the clips")
    labels, of_clip = about["label"].to_numpy(int), table["label"].to_numpy(int)
    windows, clip_sides, pooled = {}, {}, {}
    for split in ("val", "test"):
        mine = (table["split"].to_numpy() == split)[at]
        windows[split] = Side(at[mine], labels[mine], rows[:, mine])
        of_pool = _pooled(windows[split])
        which = np.unique(at[mine])
        clip_sides[split] = Side(which, of_clip[which], of_pool["mean"])
        pooled = {name: values.mean(axis=0) for name, values in of_pool.items()}
    return System(sorted(int(seed) for seed in scores["seed"].unique()), Level(**clip_sides), Level(**windows), pooled)


def _pooled(windows: Side) -> dict[str, Floats]:
    """{way to pool: (seeds, clips)}"""
    by_seed = [side_by_side(windows.at, row) for row in windows.scores]
    return {name: np.stack([pool(each) for each in by_seed]) for name, pool in POOLS.items()}
