"""Stage `search`: the feature cache -> one genotype per seed, and the same search on each modality alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch

import nas
from cache_schemas.features import FeatureCache, FeatureCacheError
from cache_schemas.files import write_text
from cache_schemas.run import NETWORKS, NetworkName, RetrainEntry, SearchEntry, SearchRun, write_run
from pipeline.params import Params
from pipeline.workers import device_of, progress_bar
from pipeline.workspace import Workspace


def run_search(workspace: Workspace, params: Params) -> SearchRun:
    """The genotypes of every network and seed; writes search.json and curves.csv."""
    cache = FeatureCache.open(workspace.features)
    features = load_features(cache, params)
    labels, split = cache.index["label"].to_numpy(copy=True), list(cache.index["split"])
    entries = []
    with epochs_bar("search", params.search.epochs * len(NETWORKS)) as progress:
        for network in NETWORKS:
            results = nas.search(
                layers_of(network, features), labels, split, params.search, params.seeds, progress=progress
            )
            entries += [
                SearchEntry(
                    network=network,
                    seed=result.seed,
                    genotype=result.genotype.model_dump(mode="json"),
                    curves=result.curves,
                    probabilities=result.probabilities,
                )
                for result in results
            ]
    run = SearchRun(entries=entries)
    write_run(workspace.search / "search.json", run)
    write_text(workspace.search / "curves.csv", curves_table(entries).to_csv(index=False))
    return run


def load_features(cache: FeatureCache, params: Params) -> dict[str, torch.Tensor]:
    """{layer: (N, C_in, L)} of train and val and test, on the device that computes."""
    counts = cache.index["split"].value_counts()
    for name in ("train", "val", "test"):
        if not counts.get(name, 0):
            raise FeatureCacheError(f"{cache.path}: no window is in the {name} split; see the quarantine lists")
    return {name: tensor.to(device_of(params.compute)) for name, tensor in cache.load().items()}


def layers_of(network: NetworkName, features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The features that a network may read: all, or one modality's."""
    return {name: x for name, x in features.items() if network == "fusion" or name.startswith(f"{network}/")}


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
