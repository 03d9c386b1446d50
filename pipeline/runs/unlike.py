"""How far a window lies from the training data, in the deepest cached layers of each modality.

A Gaussian of the training windows, and the Mahalanobis distance from its mean (Lee et al. 2018, arXiv 1807.03888), with
the layers' vectors scaled to length 1 first (Mueller and Hein 2025, arXiv 2505.18032): their lengths are far from
normal. Fakes and real clips share it, for they differ by little of what differs here. The covariance is shrunk (Ledoit
and Wolf 2004), so that it is defined in the directions, too, in which a few training windows do not differ at all:
there an unlike input shows most, and a projection would hide it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cache_schemas.files import replacing
from cache_schemas.run import RunFileError

Floats = NDArray[np.float64]
MODALITIES = ("visual", "audio")
_LEAST = 1e-12  # of a length that is divided by


@dataclass(frozen=True)
class Gaussian:
    """mean: (D,); whitening: (D, D), after which the training data have the covariance 1."""

    mean: Floats
    whitening: Floats

    def distances(self, x: Floats) -> Floats:
        """(N,) of (N, D): Mahalanobis distances over the root of D, about 1 for the training data."""
        return np.asarray(np.sqrt(np.square((x - self.mean) @ self.whitening).mean(axis=1)))


@dataclass(frozen=True)
class Familiar:
    """What the training data look or sound like; layers: those that are looked at, in the order of the vectors."""

    layers: tuple[str, ...]
    gaussian: Gaussian


def write_familiar(path: Path, familiar: Mapping[str, Familiar]) -> None:
    """Replaces `path`, a safetensors file."""
    tensors = {f"{m}.{name}": array for m, of in familiar.items() for name, array in vars(of.gaussian).items()}
    layers = {"layers": json.dumps({modality: of.layers for modality, of in familiar.items()})}  # one: in no order else
    with replacing(path) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, temporary, metadata=layers)


def read_familiar(path: Path) -> dict[str, Familiar]:
    """What `write_familiar` wrote; raises RunFileError where it is anything else."""
    try:
        found = _read(path)
        for modality, of in found.items():
            mean, whitening = of.gaussian.mean, of.gaussian.whitening
            if not (np.isfinite(mean).all() and np.isfinite(whitening).all()):
                raise ValueError(f"{modality}: it holds what is no number")
            if mean.ndim != 1 or whitening.shape != 2 * mean.shape:
                raise ValueError(
                    f"{modality}: a mean {mean.shape} and a whitening {whitening.shape}; needed: (D,), (D, D)"
                )
    except (SafetensorError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise RunFileError(f"{path}: {error}: run `bmnas evaluate` again") from error
    return found


def _read(path: Path) -> dict[str, Familiar]:
    with safe_open(path, "numpy") as file:
        layers = json.loads(file.metadata()["layers"])
        return {
            modality: Familiar(
                tuple(layers[modality]),
                Gaussian(*(file.get_tensor(f"{modality}.{name}") for name in ("mean", "whitening"))),
            )
            for modality in MODALITIES
            if modality in layers
        }


def vectors(features: Mapping[str, NDArray[Any]], layers: Sequence[str]) -> Floats:
    """(N, D) of {layer: (N, L, C_in)}: the layers, averaged over time, each scaled to length 1, side by side."""
    means = [features[name].mean(axis=1, dtype=np.float64) for name in layers]
    return np.concatenate([x / np.linalg.norm(x, axis=1, keepdims=True).clip(_LEAST) for x in means], axis=1)
