"""The sound of another clip: what a network still knows when picture and sound are both right, but not of one clip."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

Places = NDArray[np.int64]


def other_sound(features: Mapping[str, Tensor], index: pd.DataFrame, seed: int) -> dict[str, Tensor]:
    """The features {layer: (..., N, L, C_in)} with every window's audio layers taken from a window of another clip.

    index: one row a window, (N,), as for `other_windows`, which says whose.
    """
    places = other_windows(index, seed)
    return {name: x[..., places, :, :] if name.startswith("audio/") else x for name, x in features.items()}


def other_windows(index: pd.DataFrame, seed: int) -> Places:
    """(N,) the place of the window whose sound each one gets: of the same split and clip category, but another clip.

    index: clip_id, subject_id, split, clip_category, has_audio. No two windows get the same sound, and as few as can be
    that of the same person; only where one clip has more than half of the windows of its kind do others' come twice. A
    window without sound, or whose clip is the only one of its kind, keeps its own place.
    """
    random, places = np.random.default_rng(seed), np.arange(len(index))
    heard = index.reset_index(drop=True)
    for _, of in heard[heard["has_audio"].astype(bool)].groupby(["split", "clip_category"], sort=True):
        order = _shuffled(of, random)
        places[order] = _deranged(order, heard["subject_id"].to_numpy(), heard["clip_id"].to_numpy())
    return places


def _shuffled(windows: pd.DataFrame, random: np.random.Generator) -> Places:
    """The windows' places, those of a person and of a clip side by side; all else by chance."""
    chance = windows.assign(chance=random.random(len(windows)))
    keys = [chance.groupby(name)["chance"].transform("min") for name in ("subject_id", "clip_id")]
    return chance.index.to_numpy()[np.lexsort([chance["chance"], *keys[::-1]])]


def _deranged(order: Places, people: NDArray[np.object_], clips: NDArray[np.object_]) -> Places:
    """Whose sound each window of `order` gets.

    Where nobody has more than half of them, moved on by as many as the one with the most has, so that everybody meets
    others; else by half of them all, so that as few as can be meet the same person.
    """
    most = int(np.unique(people[order], return_counts=True)[1].max())
    given = np.roll(order, most if 2 * most <= len(order) else len(order) // 2)
    own = np.flatnonzero(clips[given] == clips[order])
    for place in own:
        others = order[clips[order] != clips[order[place]]]
        given[place] = others[place % len(others)] if len(others) else order[place]
    return given
