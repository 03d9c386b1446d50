"""Stored rows in memory: whichever chunks are asked for, each checked against its checksum before it is given out."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from crc32c import crc32c
from numpy.typing import NDArray

from cache_schemas.features.gather import Place
from cache_schemas.features.layout import Geometry, VariantAttributes
from cache_schemas.features.memory import Memory
from cache_schemas.features.shard import damaged


@dataclass(frozen=True)
class Wanted:
    """Some chunks of one shard of one layer, and where the shard begins in memory."""

    variant: VariantAttributes
    layer: str
    shard: int
    chunks: NDArray[np.int64]
    """(n,) in the shard, ascending, each once"""
    start: int

    @property
    def geometry(self) -> Geometry:
        """That of the layer."""
        return self.variant.geometry(self.layer)


class Source(Protocol):
    """Where shards lie."""

    lasting: bool
    """Whether chunks, once there, cost no memory of one's own: they are the system's file cache."""

    def fetch(self, memory: Memory, wanted: list[Wanted]) -> None:
        """Puts the chunks in memory; raises FeatureCacheError when a file is missing or cut off."""
        ...

    def checksums(self, variant: VariantAttributes, shard: int) -> NDArray[np.uint32]:
        """(shard_chunks, layers) of one shard; raises FeatureCacheError when they are missing or damaged."""
        ...

    def file(self, variant: VariantAttributes, layer: str, shard: int) -> str:
        """The path or URL of a shard, for messages."""
        ...


class StoredRows:
    """The rows of some layers as one range of memory: layer after layer, each (rows, C_in, L), with holes.

    Several threads may use it at once.
    """

    def __init__(
        self,
        source: Source,
        layers: Mapping[str, VariantAttributes],
        rows: Mapping[str, int],
        *,
        writable: bool = False,
        maps: bool = True,
    ) -> None:
        """rows: {variant path: how many of its rows, from the first on, may be asked for}; the rest: as in Memory."""
        self._source, self._layers = source, layers
        self._ready: dict[str, NDArray[np.bool_]] = {}
        self._starts: dict[str, int] = {}
        size = 0
        for layer, variant in layers.items():
            geometry, shards = variant.geometry(layer), -(-rows[variant.path] // variant.shard_rows)
            size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
            self._starts[layer] = size
            self._ready[layer] = np.zeros(shards * geometry.shard_chunks, bool)
            size += shards * geometry.shard_bytes
        self._memory = Memory(size, writable=writable, maps=maps)
        self.bytes = torch.from_numpy(self._memory.bytes)
        """All of it, uint8."""

    def place(self, layer: str, *, first: int = 0, step: int = 1) -> Place:
        """Every `step`-th row of a layer from `first` on."""
        geometry = self._layers[layer].geometry(layer)
        start = self._starts[layer] + first * geometry.row_bytes
        return Place(start, step * geometry.row_bytes, geometry.row_shape, geometry.dtype)

    def ensure(self, chunks: Mapping[str, NDArray[np.int64]]) -> None:
        """Brings chunks {layer: (n,) numbers} that are not there yet; raises FeatureCacheError for a damaged one."""
        wanted = [part for layer, numbers in chunks.items() for part in self._missing(layer, numbers)]
        if wanted:
            self._source.fetch(self._memory, wanted)
        for part in wanted:
            self._check(part)

    def _missing(self, layer: str, numbers: NDArray[np.int64]) -> list[Wanted]:
        todo = numbers[~self._ready[layer][numbers]]
        if not len(todo):
            return []
        variant = self._layers[layer]
        geometry = variant.geometry(layer)
        todo = np.unique(todo)
        shards = todo // geometry.shard_chunks
        return [
            Wanted(
                variant, layer, int(part[0]) // geometry.shard_chunks, part % geometry.shard_chunks,
                self._starts[layer] + int(part[0]) // geometry.shard_chunks * geometry.shard_bytes,
            )
            for part in np.split(todo, np.flatnonzero(np.diff(shards)) + 1)
        ]  # fmt: skip

    def _check(self, wanted: Wanted) -> None:
        geometry, variant = wanted.geometry, wanted.variant
        column = list(variant.layers).index(wanted.layer)
        checksums = self._source.checksums(variant, wanted.shard)[:, column].tolist()
        view, size = self._memory.view, geometry.chunk_bytes
        for chunk in wanted.chunks.tolist():
            start = wanted.start + chunk * size
            if crc32c(view[start : start + size]) != checksums[chunk]:
                file = self._source.file(variant, wanted.layer, wanted.shard)
                raise damaged(f"{variant.array(wanted.layer)} ({file}), chunk {chunk}")
        self._ready[wanted.layer][wanted.shard * geometry.shard_chunks + wanted.chunks] = True

    def release(self) -> None:
        """Gives the memory back; nothing is there any more."""
        self._memory.release()
        for ready in self._ready.values():
            ready[:] = False


def chunks_of(rows: NDArray[np.int64], chunk_rows: int) -> NDArray[np.int64]:
    """(n,) the chunks in which rows lie, ascending, each once."""
    numbers = rows.reshape(-1) // chunk_rows
    if not len(numbers):
        return numbers
    used = np.zeros(int(numbers.max()) + 1, bool)
    used[numbers] = True
    return np.flatnonzero(used)


def last_rows(rows: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """{variant path: one more than its largest row}."""
    return {path: int(numbers.max(initial=-1)) + 1 for path, numbers in rows.items()}
