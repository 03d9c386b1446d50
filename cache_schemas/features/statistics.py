"""What the values of a feature cache are like, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask.array
import numpy as np
from dask.base import compute
from dask.delayed import delayed
from numpy.typing import NDArray

from cache_schemas.features.reader import FeatureCache

BLOCK_WINDOWS = 1024
"""Windows that the statistics hold in memory at once, per layer and thread."""


def layer_statistics(cache: FeatureCache) -> Iterator[dict[str, Any]]:
    """Yields one row a layer, of view 0: mean, std, min, max, channels, and how many never change (dead).

    Out of core: dask.array reads the windows in blocks.
    """
    for layer, channels in cache.layers.items():
        blocks = []
        for start in range(0, len(cache), BLOCK_WINDOWS):
            positions = np.arange(start, min(start + BLOCK_WINDOWS, len(cache)))
            length = cache.variant_of(layer).length
            block = delayed(_block)(cache, layer, positions)
            blocks.append(dask.array.from_delayed(block, (len(positions), channels, length), "float64"))
        values = dask.array.concatenate(blocks)
        low, high = values.min(axis=(0, 2)), values.max(axis=(0, 2))
        mean, std, low, high = compute(values.mean(), values.std(), low, high, scheduler="threads")
        yield {
            "layer": layer,
            "channels": channels,
            "mean": float(mean),
            "std": float(std),
            "min": float(low.min()),
            "max": float(high.max()),
            "dead": int((low == high).sum()),
        }


def _block(cache: FeatureCache, layer: str, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    values: NDArray[np.float64] = cache.read(positions, [layer])[layer].numpy().astype(np.float64)
    return values
