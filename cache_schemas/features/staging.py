"""Finished rows on their way into the cache: small files beside it, which any process may leave there.

Each is a .npz: ZIP checks what it gives out. A damaged one is taken away, and its rows are computed again.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schemas.casting import as_stored
from cache_schemas.features.layout import FeatureCacheError, VariantAttributes
from cache_schemas.features.stored import written
from cache_schemas.files import digest, replacing


@dataclass(frozen=True)
class Piece:
    """A whole piece: the keys of its rows, and the versions of the libraries that computed them."""

    file: Path
    keys: tuple[str, ...]
    versions: Mapping[str, str]

    def rows(self, layer: str) -> NDArray[Any]:
        """(n, L, C_in)."""
        with np.load(self.file) as arrays:
            found: NDArray[Any] = arrays[layer]
            return found


def staging_folder(cache: Path) -> Path:
    """Where finished pieces wait: beside the cache, so that nothing but the cache is in it."""
    return cache.with_name(f"{cache.name}.staging")


def remove_empty(staging: Path) -> None:
    """Removes the staging folder, unless pieces are left in it."""
    with suppress(OSError):
        for folder in (*staging.glob("*/*"), *staging.iterdir(), staging):
            folder.rmdir()


def staged_piece(cache: Path, variant: VariantAttributes, keys: Sequence[str]) -> Path:
    """The file in which these rows wait, once they are computed."""
    return staging_folder(cache) / variant.path / f"{digest(*keys)}.npz"


def stage_piece(
    cache: Path,
    variant: VariantAttributes,
    keys: Sequence[str],
    features: Mapping[str, Any],
    versions: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Leaves finished rows for the packer; features: {layer: (len(keys), L, C_in)}. Safe from any process.

    Returns {key: why not} of rows that cannot be stored since a feature is not finite. versions: of what computed.
    """
    for layer, channels in variant.layers.items():
        if np.shape(features[layer]) != (len(keys), variant.length, channels):
            shape = (len(keys), variant.length, channels)
            raise FeatureCacheError(f"{layer}: is {np.shape(features[layer])}, must be {shape}")
    arrays, refused = as_stored({layer: np.asarray(features[layer]) for layer in variant.layers}, variant.dtype)
    good = [i for i in range(len(keys)) if i not in refused]
    if good:
        held = {"keys": json.dumps([keys[i] for i in good]), "versions": json.dumps(dict(versions or {}))}
        path = staged_piece(cache, variant, keys)
        with written(path), replacing(path, lasting=False, one_of_many=True) as temporary, temporary.open("wb") as file:
            np.savez(file, **{layer: rows[good] for layer, rows in arrays.items()}, **held)  # type: ignore[arg-type]
    return {keys[i]: reason for i, reason in refused.items()}


def read_piece(file: Path, variant: VariantAttributes) -> Piece | None:
    """The piece in a file, every byte of it checked; None where there is none, a damaged one is taken away."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:  # another run has packed it, or this machine does not see it yet
        return None
    try:
        with np.load(io.BytesIO(content)) as arrays:
            keys = tuple(json.loads(str(arrays["keys"])))
            for layer, channels in variant.layers.items():
                rows = arrays[layer]
                if (rows.shape, rows.dtype) != ((len(keys), variant.length, channels), np.dtype(variant.dtype)):
                    raise zipfile.BadZipFile(f"{layer} has another shape")
            return Piece(file, keys, json.loads(str(arrays["versions"])))
    except Exception:  # numpy, zipfile and json raise errors of many kinds for damage
        file.unlink(missing_ok=True)
        return None
