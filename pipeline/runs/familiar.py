"""Learns from a feature cache what the training data look and sound like; `unlike` says what that is for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from cache_schemas.features import FeatureCache
from pipeline.runs.unlike import MODALITIES, Familiar, Floats, Gaussian, vectors

_LAYERS = 2  # of each backbone, the deepest
_BLOCK_WINDOWS = 1024
_LEAST_VARIANCE = 1e-6  # of the largest in any direction
_NO_VARIANCE = 1e-12  # of vectors of length 1: that of equal windows


def fit_gaussian(x: Floats) -> Gaussian:
    """Of (N, D) vectors, N at least 2."""
    fitted = LedoitWolf().fit(x)
    values, directions = np.linalg.eigh(fitted.covariance_)
    least = max(float(values[-1]) * _LEAST_VARIANCE, _NO_VARIANCE)
    return Gaussian(fitted.location_, directions / np.sqrt(np.maximum(values, least)))


def fit_familiar(cache: FeatureCache) -> dict[str, Familiar]:
    """{modality: of the train split}; without those of which fewer than two training windows have any."""
    found: dict[str, Familiar] = {}
    train = cache.select("train")
    for modality in MODALITIES:
        layers = tuple(n for v in cache.variants if v.modality == modality for n in _deepest(cache, list(v.layers)))
        x = _vectors(cache, layers, _present(cache, modality, train))
        if layers and len(x) > 1:
            found[modality] = Familiar(layers, fit_gaussian(x))
    return found


def clip_distances(cache: FeatureCache, familiar: Mapping[str, Familiar]) -> pd.DataFrame:
    """By clip_id, for each modality `<modality>_distance`: the median of its windows, NaN where there is none."""
    clip_ids = pd.Index(cache.column("clip_id"))
    table = pd.DataFrame(index=pd.Index(clip_ids.unique(), name="clip_id"))
    for modality in MODALITIES:
        column = f"{modality}_distance"
        table[column] = np.nan
        if modality in familiar:
            of = familiar[modality]
            positions = _present(cache, modality, np.arange(len(cache)))
            distances = of.gaussian.distances(_vectors(cache, of.layers, positions))
            table[column] = pd.Series(distances, clip_ids[positions]).groupby(level=0).median()
    return table


def _deepest(cache: FeatureCache, layers: list[str]) -> list[str]:
    """Of a backbone's layers, shallow to deep, the deepest that the cache shows."""
    return [name for name in layers if name in cache.layers][-_LAYERS:]


def _present(cache: FeatureCache, modality: str, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the windows those that have the modality: what a mute one's sound gives is how silence sounds."""
    return positions[cache.column("has_audio")[positions]] if modality == "audio" else positions


def _vectors(cache: FeatureCache, layers: tuple[str, ...], positions: NDArray[np.int64]) -> Floats:
    """(N, D) of the windows at these positions, read in blocks."""
    blocks = [np.zeros((0, sum(cache.layers[name] for name in layers)))]
    for first in range(0, len(positions), _BLOCK_WINDOWS):
        read = cache.read(positions[first : first + _BLOCK_WINDOWS], layers)
        blocks.append(vectors({name: x[0].numpy() for name, x in read.items()}, layers))
    return np.concatenate(blocks)
