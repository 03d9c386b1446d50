"""Who goes into which split: by connected components of the identity graph, person by person, or as the data set's
authors say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cache_schemas.manifest import SPLITS, Clip, ManifestError, Unused
from pipeline.manifest.people import deal_people
from pipeline.params import SplitParams


def assign_splits(clips: Sequence[Clip], split: SplitParams, *, seed: int) -> tuple[list[Clip], list[Unused]]:
    """(the clips with their split, by `split.kind`; those that are in none); raises ManifestError when that cannot be
    done.
    """
    if split.kind == "official":
        return _official(clips, split, seed=seed), []
    shares = {"train": 1 - split.val - split.test, "val": split.val, "test": split.test}
    if split.kind == "people":
        return _by_people(clips, shares, seed=seed)
    dealt = _deal(clips, shares, seed=seed)
    return [replace(clip, split=dealt[clip.clip_id], split_kind="subject") for clip in clips], []


def _by_people(clips: Sequence[Clip], shares: dict[str, float], *, seed: int) -> tuple[list[Clip], list[Unused]]:
    """Everybody in one split, and the clips whose people are all in the same."""
    split_of = deal_people(clips, shares, seed=seed)
    used: list[Clip] = []
    unused: list[Unused] = []
    for clip in clips:
        sides = {person: split_of[person] for person in sorted(clip.people)}
        if len(set(sides.values())) == 1:
            used.append(replace(clip, split=split_of[clip.subject_id], split_kind="people"))
        else:
            who = ", ".join(f"{person} in {side}" for person, side in sides.items())
            reason = f"its people are in different splits: {who}"
            unused.append(Unused(replace(clip, split="", split_kind="people"), reason))
    lacking = [name for name in shares if not any(clip.split == name for clip in used)]
    if lacking:
        there = sum(side in lacking for side in split_of.values())
        raise ManifestError(
            f"split.kind is people, but no clip is left for {' and '.join(lacking)}: {there} of {len(split_of)} people "
            f"go there, and {len(unused)} of {len(clips)} clips have people of several splits; give that split a "
            "larger share (split.val, split.test), or use split.kind: subject"
        )
    return used, unused


def identity_components(clips: Sequence[Clip]) -> list[list[Clip]]:
    """The clips, in groups of people who share clips, directly or by way of others."""
    parent: dict[str, str] = {}

    def find(person: str) -> str:
        while parent.setdefault(person, person) != person:
            parent[person] = person = parent[parent[person]]
        return person

    for clip in clips:
        for other in clip.people:
            parent[find(other)] = find(clip.subject_id)
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(find(clip.subject_id), []).append(clip)
    return list(groups.values())


def _official(clips: Sequence[Clip], split: SplitParams, *, seed: int) -> list[Clip]:
    """The authors' splits, leaks and all. Where they publish no labels for one of val and test, the other is the
    test split, and val is dealt out of their train split by subject.
    """
    unsaid = [clip for clip in clips if not clip.official_split]
    if unsaid:
        raise ManifestError(
            f"split.kind is official, but {len(unsaid)} of {len(clips)} clips have no official split (the first is "
            f"{unsaid[0].path}): use split.kind: subject"
        )
    count = Counter(clip.official_split for clip in clips)
    if not count["train"] or len(count) < 2:
        raise ManifestError(
            f"split.kind is official, but the data hold only the official {' and '.join(count)} split: at least train "
            "and one of val and test are needed; use split.kind: subject"
        )
    chosen = {clip.clip_id: clip.official_split for clip in clips}
    if len(count) < len(SPLITS):
        train = [clip for clip in clips if clip.official_split == "train"]
        dealt = _deal(train, {"train": 1 - split.val, "val": split.val}, seed=seed)
        chosen = dict.fromkeys(chosen, "test") | dealt
    return [replace(clip, split=chosen[clip.clip_id], split_kind="official") for clip in clips]


def deal_folds(clips: Sequence[Clip], folds: int, *, seed: int) -> dict[str, int]:
    """{clip_id: fold, from 0}: folds of about equal size, nobody in two; raises ManifestError for too few people."""
    names = [str(fold) for fold in range(folds)]
    dealt = _deal(clips, dict.fromkeys(names, 1 / folds), seed=seed)
    return {clip_id: names.index(name) for clip_id, name in dealt.items()}


def _deal(clips: Sequence[Clip], shares: dict[str, float], *, seed: int) -> dict[str, str]:
    """{clip_id: split}. People who share a clip stay together.

    Components of the identity graph are dealt out one by one, largest first and else in an order that the seed
    shuffles, each to the split whose counts per category fall shortest of its share: stratified as far as people allow.
    """
    groups, names = identity_components(clips), list(shares)
    if len(groups) < len(names):
        raise ManifestError(
            f"{len(groups)} unrelated subjects cannot fill {', '.join(names)}: at least {len(names)} are needed, more "
            "is better (people who share a clip, as source, target or subject, count as one; split.kind: people parts "
            "them and leaves out what they share)"
        )
    categories = sorted({clip.category for clip in clips})
    # (groups, categories)
    counts = np.array(
        [[sum(clip.category == name for clip in group) for name in categories] for group in groups], float
    )
    goal = np.array(list(shares.values()))[:, None] * counts.sum(axis=0)
    filled = np.zeros_like(goal)
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    result: dict[str, str] = {}
    for dealt, g in enumerate(sorted(shuffled, key=lambda g: -counts[g].sum())):
        empty = [s for s in range(len(names)) if not filled[s].any()]
        open_splits = empty if len(groups) - dealt <= len(empty) else range(len(names))
        # The cost of a choice: squared relative distance from the goal, over all splits and categories.
        costs = {
            s: np.square(
                (filled + counts[g] * (np.arange(len(names)) == s)[:, None] - goal) / np.maximum(goal, 1)
            ).sum()
            for s in open_splits
        }
        chosen = min(costs, key=lambda s: costs[s])
        filled[chosen] += counts[g]
        result |= {clip.clip_id: names[chosen] for clip in groups[g]}
    return result
