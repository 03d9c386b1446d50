"""Stage `search`: the feature cache -> one genotype per seed, and the same search on each modality alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

import nas
from cache_schemas.features import FeatureCacheError
from cache_schemas.files import write_text
from cache_schemas.manifest import SPLITS
from cache_schemas.run import NETWORKS, NetworkName, RetrainEntry, SearchEntry, SearchRun, history_of, write_run
from pipeline.features import open_cache
from pipeline.params import Params
from pipeline.workers import device_of, progress_bar
from pipeline.workspace import Workspace


def run_search(workspace: Workspace, params: Params) -> SearchRun:
    """The genotypes of every network and seed; writes search.json and curves.csv."""
    data = load_windows(workspace, params)
    entries = []
    with epochs_bar("search", params.search.epochs * len(NETWORKS)) as progress:
        for network in NETWORKS:
            config = params.search.model_copy(update={"modality": "both" if network == "fusion" else network})
            results = nas.search(data.features, data.labels, data.split, config, params.seeds, progress=progress)
            entries += [
                SearchEntry(
                    network=network,
                    seed=result.seed,
                    genotype=result.genotype.model_dump(mode="json"),
                    curves=result.curves,
                    probabilities=result.probabilities,
                    history=history_of(result.history),
                    warnings=result.warnings,
                )
                for result in results
            ]
    run = SearchRun(entries=entries)
    write_run(workspace.search / "search.json", run)
    write_text(workspace.search / "curves.csv", curves_table(entries).to_csv(index=False))
    return run


@dataclass(frozen=True)
class Windows:
    """The whole cache as `nas` takes it, on the device that computes."""

    features: dict[str, torch.Tensor]
    """{layer: (N, C_in, L)}, or (V, N, C_in, L) where the cache holds views"""
    labels: NDArray[np.int64]
    """(N,) 1: fake"""
    split: list[str]
    """(N,) train, val or test"""
    backbones: dict[str, Any]

    def layers_of(self, network: NetworkName) -> dict[str, torch.Tensor]:
        """The features that a network may read: all, or one modality's."""
        return {name: x for name, x in self.features.items() if network == "fusion" or name.startswith(f"{network}/")}


def load_windows(workspace: Workspace, params: Params) -> Windows:
    """All windows of the cache; raises FeatureCacheError when a split has none."""
    cache = open_cache(workspace, params)
    split = list(cache.index["split"])
    for name in SPLITS:
        if name not in split:
            raise FeatureCacheError(f"{cache.path}: no window is in the {name} split; see the quarantine lists")
    device = device_of(params.compute)
    features = {name: tensor.to(device) for name, tensor in cache.load(views=cache.views > 1).items()}
    return Windows(features, cache.index["label"].to_numpy(copy=True), split, cache.attributes["backbones"])


@contextmanager
def epochs_bar(title: str, total: int) -> Iterator[Any]:
    """Yields nas's `progress` callback, which moves a bar by one epoch."""
    with progress_bar(title, total=total, unit="epochs") as advance:
        yield lambda _: advance(1)


def curves_table(entries: Sequence[SearchEntry | RetrainEntry]) -> pd.DataFrame:
    """One row per network, seed and epoch: what DVC plots."""
    return pd.DataFrame(
        [{"network": entry.network, "seed": entry.seed, **row} for entry in entries for row in entry.curves]
    )
