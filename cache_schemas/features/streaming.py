"""An epoch of shuffled batches from a cache that need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cache_schemas.features.gather import Gather
from cache_schemas.features.layout import VariantAttributes
from cache_schemas.features.memory import WINDOW_BYTES
from cache_schemas.features.stored import Source, StoredRows, chunks_of, last_rows

BLOCK_ROWS = 128
"""Neighbouring rows that a stream reads at once; whole chunks in any case."""
MIN_BLOCKS = 8
"""Fewer would leave too many neighbours in one buffer."""
GATHER_BYTES = 8 * 2**20
"""Batches of together so many bytes are gathered at once: every call makes two threads wait for one another."""


@dataclass(frozen=True)
class Stream:
    """What is streamed, and with how much memory."""

    source: Source
    layers: Mapping[str, VariantAttributes]
    rows: Mapping[str, NDArray[np.int64]]
    """{variant path: (N,)}"""
    memory_bytes: int

    def epoch(
        self, positions: NDArray[np.int64], batch_size: int, rng: np.random.Generator
    ) -> Iterator[tuple[NDArray[np.int64], dict[str, torch.Tensor]]]:
        """Yields (positions (B,), {layer: (B, C_in, L)}) until every position was there once.

        Blocks of neighbouring rows in random order fill one of two buffers while batches are drawn at random from
        the other.
        """
        gathered = max(1, min(GATHER_BYTES, self.memory_bytes // 8) // (batch_size * self._row_bytes)) * batch_size
        room = (self.memory_bytes - gathered * self._row_bytes) // 2
        first = next(iter(self.rows.values()))
        block_rows = max(min(BLOCK_ROWS, room // self._row_bytes // MIN_BLOCKS), *self._chunk_rows)
        # A buffer begins and ends inside a block, whose chunks it needs as a whole.
        count = max(1, (room // self._row_bytes - 2 * block_rows) // batch_size) * batch_size
        plan = plan_buffers(positions, first, rng, block_rows=block_rows, buffer_rows=count)
        buffers = [part for buffer in plan for part in self._fitting(buffer, room, batch_size)]
        # A mapped chunk takes whole windows of memory, which is much when it is small.
        maps = min(variant.geometry(layer).chunk_bytes for layer, variant in self.layers.items()) >= WINDOW_BYTES
        stored = [StoredRows(self.source, self.layers, last_rows(self.rows), maps=maps) for _ in range(2)]
        columns = {layer: list(self.rows).index(variant.path) for layer, variant in self.layers.items()}
        gathers = [Gather(s.bytes, {layer: s.place(layer) for layer in self.layers}, columns) for s in stored]
        with ThreadPoolExecutor(max_workers=1) as pool:
            filling = pool.submit(self._fill, stored[0], buffers[0]) if buffers else None
            for i, buffer in enumerate(buffers):
                if filling is not None:
                    filling.result()
                following = buffers[i + 1] if i + 1 < len(buffers) else None
                filling = None if following is None else pool.submit(self._fill, stored[1 - i % 2], following)
                order = rng.permutation(buffer)
                for start in range(0, len(order), gathered):
                    yield from self._batches(gathers[i % 2], order[start : start + gathered], batch_size)

    @property
    def _row_bytes(self) -> int:
        return sum(variant.geometry(layer).row_bytes for layer, variant in self.layers.items())

    @property
    def _chunk_rows(self) -> set[int]:
        return {variant.chunk_rows for variant in self.layers.values()}

    def _fill(self, stored: StoredRows, positions: NDArray[np.int64]) -> None:
        stored.release()
        stored.ensure(
            {layer: chunks_of(self.rows[v.path][positions], v.chunk_rows) for layer, v in self.layers.items()}
        )

    def _batches(
        self, gather: Gather, positions: NDArray[np.int64], batch_size: int
    ) -> Iterator[tuple[NDArray[np.int64], dict[str, torch.Tensor]]]:
        values = gather(torch.from_numpy(np.stack([rows[positions] for rows in self.rows.values()], axis=1)))
        parts = {layer: torch.split(x, batch_size) for layer, x in values.items()}
        for i, start in enumerate(range(0, len(positions), batch_size)):
            yield positions[start : start + batch_size], {layer: part[i] for layer, part in parts.items()}

    def _fitting(self, positions: NDArray[np.int64], room: int, batch_size: int) -> list[NDArray[np.int64]]:
        """`positions` in as few parts as it takes for the chunks of each to fit: rows may lie far apart."""
        half = len(positions) // 2 // batch_size * batch_size
        if half == 0 or self._chunk_bytes(positions) <= room:
            return [positions]
        return [part for side in (positions[:half], positions[half:]) for part in self._fitting(side, room, batch_size)]

    def _chunk_bytes(self, positions: NDArray[np.int64]) -> int:
        return sum(
            len(chunks_of(self.rows[variant.path][positions], variant.chunk_rows)) * variant.geometry(layer).chunk_bytes
            for layer, variant in self.layers.items()
        )


def plan_buffers(
    positions: NDArray[np.int64],
    rows: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    block_rows: int,
    buffer_rows: int,
) -> list[NDArray[np.int64]]:
    """Every position once, in buffers of `buffer_rows`: blocks of neighbours in `rows` (N,), both in random order."""
    if not len(positions):
        return []
    near = positions[np.argsort(rows[positions], kind="stable")]
    blocks = np.split(near, np.flatnonzero(np.diff(rows[near] // block_rows)) + 1)
    order = np.concatenate([rng.permutation(blocks[i]) for i in rng.permutation(len(blocks))])
    return np.split(order, range(buffer_rows, len(order), buffer_rows))
