"""One shard of one layer, as bytes: Zarr's sharding_indexed codec over uncompressed chunks with CRC-32C.

    | chunk 0 | crc | chunk 1 | crc | ...        rows in order, the last chunk filled up with zeros
    | offset, length of every chunk (uint64) | crc |          absent chunks: 2^64 - 1

Since every chunk has the same length, a shard is one strided array, which is mapped and read without a copy.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from cache_schemas.features.layout import CHECKSUM_BYTES, FeatureCacheError, Geometry

ABSENT = np.uint64(2**64 - 1)


def encode_shard(rows: Iterator[NDArray[Any]], geometry: Geometry) -> Iterator[bytes]:
    """Yields the shard's bytes; rows: pieces (chunk_rows, C_in, L), the last one may be shorter."""
    index = np.full((geometry.shard_chunks, 2), ABSENT, "<u8")
    for i, piece in enumerate(rows):
        chunk = np.zeros((geometry.chunk_rows, *geometry.row_shape), np.dtype(geometry.dtype).newbyteorder("<"))
        chunk[: len(piece)] = piece
        yield with_checksum(chunk.tobytes())
        index[i] = i * geometry.stride, geometry.stride
    yield with_checksum(index.tobytes())


def with_checksum(data: bytes) -> bytes:
    """`data` followed by its CRC-32C, as Zarr's crc32c codec writes it."""
    checksum: int = google_crc32c.value(data)
    return data + checksum.to_bytes(CHECKSUM_BYTES, "little")


def checked(data: bytes, where: str) -> bytes:
    """`data` without its checksum; raises FeatureCacheError when they disagree."""
    if len(data) <= CHECKSUM_BYTES or with_checksum(data[:-CHECKSUM_BYTES]) != data:
        raise FeatureCacheError(f"{where} is damaged: its checksum does not fit its content. {REMEDY}")
    return data[:-CHECKSUM_BYTES]


REMEDY = "Restore the file (`dvc checkout`), or run `bmnas cache verify --drop` and then `bmnas features` again"


class Chunks:
    """Consecutive chunks of a shard in a buffer; each is checked once, before the first of its rows is given out."""

    def __init__(
        self,
        buffer: mmap.mmap | bytes,
        geometry: Geometry,
        *,
        first: int,
        count: int,
        where: str,
        checked: NDArray[np.bool_] | None = None,
    ) -> None:
        """buffer: bytes that begin with chunk `first`; where: the array and the file, for errors.

        checked: (count or more,) which chunks need no check any more; kept up to date.
        """
        if len(buffer) < count * geometry.stride:
            raise FeatureCacheError(
                f"{where} is cut off: it lacks {count * geometry.stride - len(buffer)} bytes. {REMEDY}"
            )
        self._bytes = np.frombuffer(buffer, np.uint8)
        self._geometry = geometry
        self._first = first
        self._where = where
        shape = (count, geometry.chunk_rows, *geometry.row_shape)
        item = np.dtype(geometry.dtype).itemsize
        strides = (geometry.stride, geometry.row_bytes, geometry.row_shape[1] * item, item)
        self._rows: NDArray[Any] = np.ndarray(shape, geometry.dtype, buffer=buffer, strides=strides)
        self._count = count
        self._checked = np.zeros(count, bool) if checked is None else checked

    def check(self, chunks: NDArray[np.int64]) -> None:
        """Raises FeatureCacheError for the first of the given chunks (numbers in the shard) that is damaged."""
        local = chunks - self._first
        if len(local) and not 0 <= local.min() <= local.max() < self._count:
            raise FeatureCacheError(f"{self._where} is cut off: it has {self._count} chunks. {REMEDY}")
        if self._checked[local].all():
            return
        for chunk in np.unique(local[~self._checked[local]]):
            start = int(chunk) * self._geometry.stride
            end = start + self._geometry.chunk_bytes
            stored = int.from_bytes(self._bytes[end : end + CHECKSUM_BYTES].tobytes(), "little")
            if google_crc32c.value(self._bytes[start:end]) != stored:
                raise FeatureCacheError(
                    f"{self._where}, chunk {int(chunk) + self._first} is damaged: its checksum does not fit its "
                    f"content. {REMEDY}"
                )
            self._checked[chunk] = True

    def holds(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) whether rows of the shard are in the buffer."""
        chunks = rows // self._geometry.chunk_rows - self._first
        return (chunks >= 0) & (chunks < self._count)

    def copy_rows(self, rows: NDArray[np.int64], out: NDArray[Any], places: NDArray[np.int64]) -> None:
        """Copies rows (n,) of the shard to out[places]; out: (N, C_in, L)."""
        chunks, offsets = np.divmod(rows, self._geometry.chunk_rows)
        self.check(chunks)
        starts = np.flatnonzero((np.diff(rows, prepend=-2) != 1) | (np.diff(places, prepend=-2) != 1))
        if len(starts) * MIN_RUN > len(rows):
            out[places] = self._rows[chunks - self._first, offsets]
            return
        for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
            self._copy_run(int(rows[start]), out[places[start] : places[start] + (end - start)])

    def _copy_run(self, row: int, out: NDArray[Any]) -> None:
        """Copies neighbouring rows, from `row` on, to out: (n, C_in, L)."""
        size, done = self._geometry.chunk_rows, 0
        while done < len(out):
            chunk, offset = divmod(row + done, size)
            chunk -= self._first
            whole = (len(out) - done) // size if offset == 0 else 0
            if whole:
                target = out[done : done + whole * size].reshape(whole, size, *out.shape[1:])
                target[...] = self._rows[chunk : chunk + whole]
                done += whole * size
            else:
                part = min(size - offset, len(out) - done)
                out[done : done + part] = self._rows[chunk, offset : offset + part]
                done += part


MIN_RUN = 8
"""Rows side by side, on average, from which copying run by run is faster than one by one."""


def check_shard(buffer: mmap.mmap | bytes, geometry: Geometry, where: str) -> int:
    """The number of rows that a whole shard's bytes have room for, everything in it checked.

    Raises FeatureCacheError, naming the place, for any damage: every byte is under some checksum.
    """
    chunks, rest = divmod(len(buffer) - geometry.index_bytes, geometry.stride)
    if rest or not 0 <= chunks <= geometry.shard_chunks:
        raise FeatureCacheError(f"{where} has {len(buffer)} bytes, which no shard of this layer has. {REMEDY}")
    index = np.frombuffer(checked(bytes(buffer[chunks * geometry.stride :]), f"{where}: the index"), "<u8")
    expected = np.full((geometry.shard_chunks, 2), ABSENT)
    expected[:chunks] = np.stack([np.arange(chunks) * geometry.stride, np.full(chunks, geometry.stride)], axis=1)
    if not np.array_equal(index.reshape(-1, 2), expected):
        raise FeatureCacheError(f"{where}: chunks do not lie in order: it was not written by bmnas. {REMEDY}")
    Chunks(buffer, geometry, first=0, count=chunks, where=where).check(np.arange(chunks))
    return chunks * geometry.chunk_rows
