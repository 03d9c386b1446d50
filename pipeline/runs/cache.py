"""The feature cache as `nas` takes it, and where a worker process finds it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache_schemas.features import FeatureCache, FeatureCacheError
from cache_schemas.files import digest
from cache_schemas.manifest import SPLITS
from cache_schemas.run import NetworkName
from pipeline.compute.machine import device_of
from pipeline.params import Params
from pipeline.workspace import Workspace


def open_cache(workspace: Workspace, params: Params) -> FeatureCache:
    """The workspace's cache; raises FeatureCacheError when it was made with other parameters than `params`."""
    cache = FeatureCache.open(workspace.features)
    made, wanted = cache.attributes["params"], params.of_features()
    for section, values in wanted.items():
        for key, value in values.items():
            if made.get(section, {}).get(key) != value:
                raise FeatureCacheError(
                    f"{workspace.features} was made with {section}.{key} = {made.get(section, {}).get(key)!r}, the "
                    f"parameters say {value!r}: run `bmnas features` (what is there already is not computed again)"
                )
    return cache


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

    def layers_of(self, network: NetworkName) -> dict[str, torch.Tensor]:
        """The features that a network may read: all, or one modality's."""
        return {name: x for name, x in self.features.items() if network == "fusion" or name.startswith(f"{network}/")}


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

    def windows(self) -> Windows:
        """The cache on this process's device, loaded once; raises FeatureCacheError when it is another one by now."""
        return _windows(Workspace(self.work), self.identity, device_of(self.params.compute))


@lru_cache(maxsize=1)
def _windows(workspace: Workspace, identity: str, device: str) -> Windows:
    cache = FeatureCache.open(workspace.features)
    found = cache_identity(cache)
    if found != identity:
        raise FeatureCacheError(
            f"{cache.path} is no longer the cache that this work was planned on (it was {identity}, it is {found}): "
            "nothing was computed on it; give the command again, and keep `bmnas features` from running beside it"
        )
    split = list(cache.index["split"])
    for name in SPLITS:
        if name not in split:
            raise FeatureCacheError(f"{cache.path}: no window is in the {name} split; see the quarantine lists")
    features = {name: x.to(device).transpose(-1, -2) for name, x in cache.load(views=cache.views > 1).items()}
    return Windows(features, cache.index["label"].to_numpy(copy=True), split, cache.attributes["backbones"])


def cache_identity(cache: FeatureCache) -> str:
    """A digest of the windows, their labels and splits, and all that makes their features."""
    columns = cache.index[["clip_id", "window", "start_s", "label", "split"]].to_csv(index=False)
    table = hashlib.sha256(columns.encode()).hexdigest()
    return digest(table, sorted(variant.path for variant in cache.variants))
