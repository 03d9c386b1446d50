"""The feature cache as `nas` takes it, and where a worker process finds it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cache_schemas.content import cache_identity
from cache_schemas.features import FeatureCache, FeatureCacheError
from cache_schemas.features.upkeep import both_indexes
from cache_schemas.manifest import SPLITS, read_manifest, read_quarantine
from cache_schemas.run import NetworkName
from pipeline.compute.machine import device_of
from pipeline.params import Params
from pipeline.runs.keys import code_version
from pipeline.workspace import Workspace

__all__ = ["Source", "Windows", "cache_identity", "open_cache"]

_NO_PROPERTIES = ("key", "reason", "no_audio", "passing")
"""What the check notes of a clip beside its properties."""

PSEUDO_SHARE = 1 / 3
"""Of the fakes that are trained on, those that are pseudo-fakes.

What docs/carry-over.md measured on sources left out ("pseudo-fakes from real train clips", the first row in bold), with
nothing tuned: a tenth and 0.6 gained about as much there, and with no other fakes nothing was gained for sure.
"""


def open_cache(workspace: Workspace, params: Params) -> FeatureCache:
    """The workspace's cache; raises FeatureCacheError when with `params` it would hold other windows or values."""
    cache = FeatureCache.open(workspace.features)
    made, wanted = cache.attributes["params"], params.of_features()
    for section, values in wanted.items():
        rule = getattr(params, section).naming_of
        ours, theirs = rule(values), rule(made.get(section, {}))
        other = next((key for key in ours | theirs if ours.get(key) != theirs.get(key)), None)
        if section == "windows" and other is None and _sound_decides(workspace, cache, params):
            other = "missing_modality"
        if other is not None:
            raise FeatureCacheError(
                f"{workspace.features} was made with {section}.{other} = {made.get(section, {}).get(other)!r}, the "
                f"parameters say {values.get(other)!r}: run `bmnas features` (what is there already is not computed "
                "again)"
            )
    return cache


def _sound_decides(workspace: Workspace, cache: FeatureCache, params: Params) -> bool:
    """Whether missing_modality is another one now, and there are clips for which that makes a difference."""
    if cache.attributes["params"]["windows"].get("missing_modality") == params.windows.missing_modality:
        return False
    left_out = read_quarantine(workspace.quarantine("spectrograms"))
    return not cache.column("has_audio").all() or any("(missing_modality:" in row.reason for row in left_out)


def clip_index(workspace: Workspace, cache: FeatureCache) -> pd.DataFrame:
    """The cache's index with columns more: `clip_category`, what the manifest says of the whole clip, and whatever else
    `bmnas manifest --check` has measured, once it has measured every clip.

    Raises FeatureCacheError when the manifest lacks a clip of the cache.
    """
    categories = {clip.clip_id: clip.category for clip in read_manifest(workspace.manifest)}
    index = cache.index.assign(clip_category=cache.index["clip_id"].map(categories))
    unknown = index.loc[index["clip_category"].isna(), "path"]
    if len(unknown):
        raise FeatureCacheError(
            f"{workspace.manifest} lacks {unknown.iloc[0]}, which {cache.path} holds: run `bmnas features` again"
        )
    facts = _facts(workspace.check / "facts.jsonl")
    if not facts.keys() >= set(index["clip_id"]):  # of some clips alone they would tell which were measured
        return index
    names = {name for clip_id in index["clip_id"] for name in facts[clip_id]} - {*index, *_NO_PROPERTIES}
    known = [{name: facts[clip_id].get(name) for name in sorted(names)} for clip_id in index["clip_id"]]
    return index.join(pd.DataFrame(known, index.index))


def _facts(path: Path) -> dict[str, dict[str, Any]]:
    """{clip_id: what the check measured}, without a line that it is writing now."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            found[row["clip_id"]] = row
    return found


@dataclass(frozen=True)
class Windows:
    """The whole cache as `nas` takes it, on the device that computes."""

    features: dict[str, torch.Tensor]
    """{layer: (N, L, C_in)}, or (V, N, L, C_in) where the cache holds views"""
    labels: NDArray[np.int64]
    """(N,) 1: fake"""
    split: list[str]
    """(N,) train, val or test"""
    backbones: dict[str, Any]
    pseudo: dict[str, torch.Tensor] = field(default_factory=dict)
    """{layer: (M, L, C_in)} of pseudo-fakes, which nothing but training sees; empty where there are none"""
    pseudo_of: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(M,) the window that each is made of"""

    def layers_of(self, network: NetworkName) -> dict[str, torch.Tensor]:
        """The features that a network may read: all, or one modality's."""
        return {name: x for name, x in self.features.items() if network == "fusion" or name.startswith(f"{network}/")}

    def drawn(self, layers: Iterable[str]) -> NDArray[np.int64]:
        """Which of the pseudo-fakes are learnt from, by their numbers: of those on the train side.

        So many that they are PSEUDO_SHARE of train's fakes, all equally often but for one. Who reads none but visual
        `layers` gets none: their picture is a real one.
        """
        split = np.array(self.split, object)
        there = np.flatnonzero(split[self.pseudo_of] == "train")
        fakes = int(((self.labels == 1) & (split == "train")).sum())
        wanted = round(fakes * PSEUDO_SHARE / (1 - PSEUDO_SHARE)) if len(there) and hears(layers) else 0
        return np.resize(np.random.default_rng(0).permutation(there), wanted)

    def to_train_on(self, layers: Iterable[str]) -> Windows:
        """The same windows, and behind them, as train's, the pseudo-fakes that are `drawn`.

        Scores of what is behind the windows are nobody's.
        """
        drawn = self.drawn(layers)
        if not len(drawn):
            return self
        features = {
            name: torch.cat([x, self.pseudo[name][drawn].expand(*x.shape[:-3], -1, -1, -1)], dim=-3)
            for name, x in self.features.items()
        }
        labels = np.concatenate([self.labels, np.ones(len(drawn), np.int64)])
        return Windows(features, labels, [*self.split, *["train"] * len(drawn)], self.backbones)

    def taken(self, split: Sequence[str]) -> Windows:
        """Those that are part of another split, split so. split: (N,) train, val or test; "": no part of it."""
        rows = np.flatnonzero([bool(side) for side in split])
        if len(rows) == len(split):
            return replace(self, split=list(split))
        place = np.full(len(split), -1)
        place[rows] = np.arange(len(rows))
        made = np.flatnonzero(place[self.pseudo_of] >= 0)
        return Windows(
            {name: x[..., rows, :, :] for name, x in self.features.items()},
            self.labels[rows],
            [side for side in split if side],
            self.backbones,
            {name: x[made] for name, x in self.pseudo.items()},
            place[self.pseudo_of[made]],
        )


def hears(layers: Iterable[str]) -> bool:
    """Whether one of the layers is of the sound."""
    return any(name.startswith("audio/") for name in layers)


@dataclass(frozen=True)
class Source:
    """The cache that a job was named for, and the parameters of everything: what tasks carry to their workers."""

    work: Path
    """absolute: a worker may have started in another folder"""
    params: Params
    identity: str

    @classmethod
    def of(cls, workspace: Workspace, params: Params) -> Source:
        """The workspace's cache as it is now; raises FeatureCacheError when it was made with other parameters."""
        return cls(workspace.root.resolve(), params, cache_identity(open_cache(workspace, params)))

    def control(self) -> Source | None:
        """The same windows by backbones with random weights; None where the cache has none (`no_control` says why)."""
        control = _opened(Workspace(self.work), self.identity).control()
        if control is None:
            return None
        features = self.params.features.model_copy(update={"pseudo": control.pseudo})
        params = self.params.model_copy(update={"features": features})
        return replace(self, identity=cache_identity(control), params=params)

    @property
    def naming(self) -> list[str]:
        """What runs over it are named by: the cache, and where it has pseudo-fakes the code that draws from them."""
        return [self.identity, *([code_version(Windows)] if self.params.features.pseudo else [])]

    def no_control(self) -> str:
        """Why the cache has no control."""
        return _opened(Workspace(self.work), self.identity).no_control

    def windows(self) -> Windows:
        """The cache on this process's device, loaded once; raises FeatureCacheError when it is another one by now."""
        return _windows(Workspace(self.work), self.identity, device_of(self.params.compute))


def _opened(workspace: Workspace, identity: str) -> FeatureCache:
    """The workspace's cache or its control, whichever has the identity; raises FeatureCacheError where neither does."""
    cache = FeatureCache.open(workspace.features)
    found = {cache_identity(one): one for one in reversed(both_indexes(cache))}
    if identity not in found:
        raise FeatureCacheError(
            f"{cache.path} is no longer the cache that this work was planned on (it was {identity}, it is "
            f"{cache_identity(cache)}): nothing was computed on it; give the command again, and keep `bmnas features` "
            "from running beside it"
        )
    return found[identity]


@lru_cache(maxsize=1)
def _windows(workspace: Workspace, identity: str, device: str) -> Windows:
    cache = _opened(workspace, identity)
    split = list(cache.index["split"])
    for name in SPLITS:
        if name not in split:
            raise FeatureCacheError(f"{cache.path}: no window is in the {name} split; see the quarantine lists")
    features = {name: x.to(device) for name, x in cache.load(views=cache.views > 1).items()}
    pseudo_of, pseudo = cache.load_pseudo()
    return Windows(
        features,
        cache.index["label"].to_numpy(copy=True),
        split,
        cache.attributes["backbones"],
        {name: x.to(device) for name, x in pseudo.items()},
        pseudo_of,
    )
