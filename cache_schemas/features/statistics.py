"""What the values of a feature cache are like, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cache_schemas.features.reader import FeatureCache

BLOCK_WINDOWS = 4096
"""Windows that are in memory at once."""


def layer_statistics(cache: FeatureCache) -> Iterator[dict[str, Any]]:
    """Yields one row a layer, of view 0: mean, std, min, max, channels, and how many never change (dead)."""
    for layer, channels in cache.layers.items():
        total = square = 0.0
        low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
        for start in range(0, len(cache), BLOCK_WINDOWS):
            block = cache.read(np.arange(start, min(start + BLOCK_WINDOWS, len(cache))), [layer])[layer].numpy()
            total += float(block.sum(dtype=np.float64))
            square += float(np.square(block, dtype=np.float64).sum())
            low, high = np.minimum(low, block.min(axis=(0, 1))), np.maximum(high, block.max(axis=(0, 1)))
        count = len(cache) * cache.variant_of(layer).length * channels
        yield {
            "layer": layer,
            "channels": channels,
            "mean": total / count,
            "std": float(np.sqrt(max(0.0, square / count - (total / count) ** 2))),
            "min": float(low.min()),
            "max": float(high.max()),
            "dead": int((low == high).sum()),
        }
