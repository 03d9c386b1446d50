"""Features as a cache holds them, which may be in half precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_stored(layers: Mapping[str, NDArray[Any]], dtype: str) -> tuple[dict[str, NDArray[Any]], dict[int, str]]:
    """({layer: its rows as `dtype`}, {number of a row: why it cannot be stored}); layers: {layer: (rows, L, C_in)}."""
    arrays: dict[str, NDArray[Any]] = {}
    refused: dict[int, str] = {}
    for layer, values in layers.items():
        with np.errstate(over="ignore"):  # told below, with the layer's name
            arrays[layer] = values.astype(dtype)
        for i in np.flatnonzero(~np.isfinite(arrays[layer]).all(axis=(1, 2))).tolist():
            reason = f"{layer}: a feature is not finite as {dtype} (largest {np.abs(values[i]).max():g})"
            refused.setdefault(i, f"{reason}: use features.dtype float32, or other weights")
    return arrays, refused
