"""Rows of a cache into memory: without a copy where they lie side by side in the files, else gathered in parallel."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from cache_schemas.features.gather import Gather, Place
from cache_schemas.features.layout import VariantAttributes
from cache_schemas.features.stored import Source, StoredRows, chunks_of, last_rows


class LoadedFeatures(dict[str, torch.Tensor]):
    """{layer: (N, C_in, L)} (or (V, N, C_in, L)), views of one buffer."""

    def __init__(self, buffer: torch.Tensor, places: Mapping[str, Place], count: int, *, views: int | None) -> None:
        """places: where windows lie; with `views`, a row is all of a window's: (V * C_in, L)."""
        self._views = views
        self._gather = Gather(buffer, places, dict.fromkeys(places, 0))
        super().__init__(self._split({layer: place.tensor(buffer, count) for layer, place in places.items()}))

    def batch(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """{layer: (B, C_in, L)} (or (V, B, C_in, L)) of the windows at `rows` (B,): one gather for all layers."""
        return self._split(self._gather(rows[:, None]))

    def _split(self, layers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self._views is None:
            return layers
        split = {
            layer: x.view(len(x), self._views, x.shape[1] // self._views, x.shape[2]) for layer, x in layers.items()
        }
        return {layer: x.transpose(0, 1) for layer, x in split.items()}


def load_rows(
    source: Source,
    layers: Mapping[str, VariantAttributes],
    rows: Mapping[str, NDArray[np.int64]],
    *,
    views: bool,
    shared: bool,
) -> LoadedFeatures:
    """The given rows of every layer; rows: {variant path: (N, V)}, V = 1 unless `views`.

    The tensors are private: who changes them changes neither the files nor what others read. shared: a copy in
    shared memory.
    """
    regular = {path: regular_rows(numbers) for path, numbers in rows.items()}
    count, width = next(iter(rows.values())).shape
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        if shared or None in regular.values():
            buffer, places = _copied(source, layers, rows, pool, shared=shared)
        else:
            stored = StoredRows(source, layers, last_rows(rows), writable=True)
            _ensure(stored, layers, rows, pool)
            buffer, places = stored.bytes, {}
            for layer, variant in layers.items():
                first, step = regular[variant.path] or (0, 1)
                places[layer] = stored.place(layer, first=first, step=step)
    if not views:
        return LoadedFeatures(buffer, places, count, views=None)
    grouped = {layer: replace(place, shape=(width * place.shape[0], place.shape[1])) for layer, place in places.items()}
    return LoadedFeatures(buffer, grouped, count, views=width)


def regular_rows(rows: NDArray[np.int64]) -> tuple[int, int] | None:
    """(first, step) when window i has the neighbouring rows first + i * step, ...; None when not; rows: (N, V)."""
    count, views = rows.shape
    if count == 0:
        return None
    first, step = int(rows[0, 0]), int(rows[1, 0] - rows[0, 0]) if count > 1 else views
    expected = first + step * np.arange(count)[:, None] + np.arange(views)
    return (first, step) if step >= views and np.array_equal(rows, expected) else None


def _ensure(
    stored: StoredRows,
    layers: Mapping[str, VariantAttributes],
    rows: Mapping[str, NDArray[np.int64]],
    pool: ThreadPoolExecutor,
) -> None:
    """Brings the chunks of all rows, a shard a job."""
    jobs = []
    for layer, variant in layers.items():
        chunks = chunks_of(rows[variant.path], variant.chunk_rows)
        shards = np.split(chunks, np.flatnonzero(np.diff(chunks // variant.shard_chunks)) + 1)
        jobs += [pool.submit(stored.ensure, {layer: part}) for part in shards]
    for job in jobs:
        job.result()


_PIECE_ROWS = 2048
"""Rows that one thread copies at once."""


def _copied(
    source: Source,
    layers: Mapping[str, VariantAttributes],
    rows: Mapping[str, NDArray[np.int64]],
    pool: ThreadPoolExecutor,
    *,
    shared: bool,
) -> tuple[torch.Tensor, dict[str, Place]]:
    """A new buffer that holds copies of the rows, layer after layer: only one layer's chunks are there at a time."""
    places, size = {}, 0
    for layer, variant in layers.items():
        geometry, numbers = variant.geometry(layer), rows[variant.path]
        places[layer] = Place(size, geometry.row_bytes * numbers.shape[1], geometry.row_shape, geometry.dtype)
        size += geometry.row_bytes * numbers.size
    buffer = _empty(max(1, size), shared=shared)  # torch cannot view no bytes as numbers
    for layer, variant in layers.items():
        stored, numbers = StoredRows(source, {layer: variant}, last_rows(rows)), rows[variant.path].reshape(-1)
        _ensure(stored, {layer: variant}, rows, pool)
        place = stored.place(layer)
        values = place.tensor(stored.bytes, int(numbers.max(initial=-1)) + 1).numpy()
        out = replace(place, start=places[layer].start).tensor(buffer, len(numbers)).numpy()
        starts = range(0, len(numbers), _PIECE_ROWS)
        # Not mode="raise", which copies everything twice.
        jobs = [
            pool.submit(np.take, values, numbers[i : i + _PIECE_ROWS], 0, out[i : i + _PIECE_ROWS], "clip")
            for i in starts
        ]
        for job in jobs:
            job.result()
    return buffer, places


def _empty(size: int, *, shared: bool) -> torch.Tensor:
    if shared:
        tensor: torch.Tensor = torch.empty(size, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        return tensor
    return torch.from_numpy(np.empty(size, np.uint8))  # numpy asks the system for huge pages: twice as fast to fill
