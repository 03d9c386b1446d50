"""One shard of one layer, as bytes: Zarr's sharding_indexed codec over uncompressed chunks.

    | chunk 0 | chunk 1 | ...                    rows in order, the last chunk filled up with zeros
    | offset, length of every chunk (uint64) | crc |          absent chunks: 2^64 - 1

So a shard begins with its rows as they lie in memory. The CRC-32C of its chunks are a column of the variant's
`checksum` array.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from cache_schemas.features.layout import CHECKSUM_BYTES, FeatureCacheError, Geometry, VariantAttributes

ABSENT = np.uint64(2**64 - 1)
REMEDY = "Restore the file (`dvc checkout`), or run `bmnas cache verify --drop` and then `bmnas features` again"


def encode_shard(rows: Iterable[NDArray[Any]], geometry: Geometry, checksums: NDArray[np.uint32]) -> Iterator[bytes]:
    """Yields the shard's bytes; rows: pieces (chunk_rows, C_in, L), the last one may be shorter.

    Leaves the chunks' checksums in `checksums` (shard_chunks,).
    """
    count = 0
    for i, piece in enumerate(rows):
        chunk = np.zeros((geometry.chunk_rows, *geometry.row_shape), np.dtype(geometry.dtype).newbyteorder("<"))
        chunk[: len(piece)] = piece
        data = chunk.tobytes()
        checksums[i] = crc32c(data)
        count += 1
        yield data
    yield with_checksum(_shard_index(geometry, count).tobytes())


def _shard_index(geometry: Geometry, count: int) -> NDArray[np.uint64]:
    """(shard_chunks, 2): offset and length of every chunk, of which there are `count`."""
    index = np.full((geometry.shard_chunks, 2), ABSENT, "<u8")
    index[:count, 0] = np.arange(count) * geometry.chunk_bytes
    index[:count, 1] = geometry.chunk_bytes
    return index


def with_checksum(data: bytes) -> bytes:
    """`data` followed by its CRC-32C, as Zarr's crc32c codec writes it."""
    return data + crc32c(data).to_bytes(CHECKSUM_BYTES, "little")


def checked(data: bytes, where: str) -> bytes:
    """`data` without its checksum; raises FeatureCacheError when they disagree."""
    if len(data) <= CHECKSUM_BYTES or with_checksum(data[:-CHECKSUM_BYTES]) != data:
        raise damaged(where)
    return data[:-CHECKSUM_BYTES]


def decode_checksums(data: bytes, variant: VariantAttributes, where: str) -> NDArray[np.uint32]:
    """(shard_chunks, layers) from the file that holds them; raises FeatureCacheError when it is damaged."""
    table, shape = np.frombuffer(checked(data, where), "<u4"), (variant.shard_chunks, len(variant.layers))
    if table.size != shape[0] * shape[1]:
        raise FeatureCacheError(f"{where} has {len(data)} bytes, which no table of checksums has. {REMEDY}")
    return table.reshape(shape)


def damaged(where: str) -> FeatureCacheError:
    """What to raise for bytes that do not fit their checksum."""
    return FeatureCacheError(f"{where} is damaged: its checksum does not fit its content. {REMEDY}")


def stored_chunks(size: int, geometry: Geometry) -> int:
    """How many chunks a shard of `size` bytes holds; what is missing at the end of a cut one is not counted."""
    return min(max(0, (size - geometry.index_bytes) // geometry.chunk_bytes), geometry.shard_chunks)


def check_shard(data: bytes, geometry: Geometry, checksums: NDArray[np.uint32], where: str) -> int:
    """The number of rows that a whole shard's bytes have room for, everything in it checked.

    checksums: (shard_chunks,). Raises FeatureCacheError, naming the place, for any damage: every byte is under some
    checksum.
    """
    count, rest = divmod(len(data) - geometry.index_bytes, geometry.chunk_bytes)
    if rest or not 0 <= count <= geometry.shard_chunks:
        raise FeatureCacheError(f"{where} has {len(data)} bytes, which no shard of this layer has. {REMEDY}")
    index = np.frombuffer(checked(data[count * geometry.chunk_bytes :], f"{where}: the index"), "<u8")
    if not np.array_equal(index.reshape(-1, 2), _shard_index(geometry, count)):
        raise FeatureCacheError(f"{where}: chunks do not lie in order: it was not written by bmnas. {REMEDY}")
    view = memoryview(data)
    for i in range(count):
        chunk = view[i * geometry.chunk_bytes : (i + 1) * geometry.chunk_bytes]
        if crc32c(chunk) != checksums[i]:
            raise damaged(f"{where}, chunk {i}")
    return count * geometry.chunk_rows
