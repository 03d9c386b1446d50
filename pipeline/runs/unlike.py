"""How far a window lies from the training data, in the deepest cached layers of each modality.

A Gaussian of the training windows, and the Mahalanobis distance from its mean (Lee et al. 2018, arXiv 1807.03888), with
the layers' vectors scaled to length 1 first (Mueller and Hein 2025, arXiv 2505.18032): their lengths are far from
normal. Fakes and real clips share it, for they differ by little of what differs here. The covariance is shrunk (Ledoit
and Wolf 2004), so that it is defined in the directions, too, in which a few training windows do not differ at all:
there an unlike input shows most, and a projection would hide it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.covariance import LedoitWolf

from cache_schemas.features import FeatureCache
from cache_schemas.files import replacing
from pipeline.statistics.metrics import Floats

_MODALITIES = ("visual", "audio")
_LAYERS = 2  # of each backbone, the deepest
_BLOCK_WINDOWS = 1024
_LEAST_VARIANCE = 1e-6  # of the largest in any direction
_NO_VARIANCE = 1e-12  # of vectors of length 1: that of equal windows


@dataclass(frozen=True)
class Gaussian:
    """mean: (D,); whitening: (D, D), after which the training data have the covariance 1."""

    mean: Floats
    whitening: Floats

    @classmethod
    def of(cls, x: Floats) -> Gaussian:
        """Of (N, D) vectors, N at least 2."""
        fitted = LedoitWolf().fit(x)
        values, vectors = np.linalg.eigh(fitted.covariance_)
        least = max(float(values[-1]) * _LEAST_VARIANCE, _NO_VARIANCE)
        return cls(fitted.location_, vectors / np.sqrt(np.maximum(values, least)))

    def distances(self, x: Floats) -> Floats:
        """(N,) of (N, D): Mahalanobis distances over the root of D, about 1 for the training data."""
        return np.asarray(np.sqrt(np.square((x - self.mean) @ self.whitening).mean(axis=1)))


@dataclass(frozen=True)
class Familiar:
    """What the training data look or sound like; layers: those that are looked at, in the order of the vectors."""

    layers: tuple[str, ...]
    gaussian: Gaussian


def fit_familiar(cache: FeatureCache) -> dict[str, Familiar]:
    """{modality: of the train split}; without those of which fewer than two training windows have any."""
    found: dict[str, Familiar] = {}
    train = cache.select("train")
    for modality in _MODALITIES:
        layers = tuple(n for v in cache.variants if v.modality == modality for n in _deepest(cache, list(v.layers)))
        x = _vectors(cache, layers, _present(cache, modality, train))
        if layers and len(x) > 1:
            found[modality] = Familiar(layers, Gaussian.of(x))
    return found


def clip_distances(cache: FeatureCache, familiar: Mapping[str, Familiar]) -> pd.DataFrame:
    """By clip_id, for each modality `<modality>_distance`: the median of its windows, NaN where there is none."""
    clip_ids = pd.Index(cache.column("clip_id"))
    table = pd.DataFrame(index=pd.Index(clip_ids.unique(), name="clip_id"))
    for modality in _MODALITIES:
        column = f"{modality}_distance"
        table[column] = np.nan
        if modality in familiar:
            of = familiar[modality]
            positions = _present(cache, modality, np.arange(len(cache)))
            distances = of.gaussian.distances(_vectors(cache, of.layers, positions))
            table[column] = pd.Series(distances, clip_ids[positions]).groupby(level=0).median()
    return table


def write_familiar(path: Path, familiar: Mapping[str, Familiar]) -> None:
    """Replaces `path`, a safetensors file."""
    tensors = {f"{m}.{name}": array for m, of in familiar.items() for name, array in vars(of.gaussian).items()}
    layers = {"layers": json.dumps({modality: of.layers for modality, of in familiar.items()})}  # one: in no order else
    with replacing(path) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, temporary, metadata=layers)


def read_familiar(path: Path) -> dict[str, Familiar]:
    """What `write_familiar` wrote."""
    with safe_open(path, "numpy") as file:
        layers = json.loads(file.metadata()["layers"])
        return {
            modality: Familiar(
                tuple(layers[modality]),
                Gaussian(*(file.get_tensor(f"{modality}.{name}") for name in ("mean", "whitening"))),
            )
            for modality in _MODALITIES
            if modality in layers
        }


def _deepest(cache: FeatureCache, layers: list[str]) -> list[str]:
    """Of a backbone's layers, shallow to deep, the deepest that the cache shows."""
    return [name for name in layers if name in cache.layers][-_LAYERS:]


def _present(cache: FeatureCache, modality: str, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the windows those that have the modality: what a mute one's sound gives is how silence sounds."""
    return positions[cache.column("has_audio")[positions]] if modality == "audio" else positions


def _vectors(cache: FeatureCache, layers: tuple[str, ...], positions: NDArray[np.int64]) -> Floats:
    """(N, D): the windows' layers, averaged over time, each scaled to length 1, side by side. Read in blocks."""
    blocks = [np.zeros((0, sum(cache.layers[name] for name in layers)))]
    for first in range(0, len(positions), _BLOCK_WINDOWS):
        read = cache.read(positions[first : first + _BLOCK_WINDOWS], layers)
        means = (read[name][0].double().mean(dim=1) for name in layers)
        blocks.append(torch.cat([torch.nn.functional.normalize(x, dim=1) for x in means], dim=1).numpy())
    return np.concatenate(blocks)
