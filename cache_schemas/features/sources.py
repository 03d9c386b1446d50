"""Where the shards of a cache lie: in a folder, from which they are mapped, or below an fsspec URL, read in ranges."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import zarr
from numpy.typing import NDArray

from cache_schemas.features.layout import (
    CHECKSUM_BYTES,
    CHECKSUMS,
    SCHEMA_VERSION,
    FeatureCacheError,
    RootAttributes,
    VariantAttributes,
    parse,
    shard_name,
    table_name,
)
from cache_schemas.features.memory import MAPS, Memory
from cache_schemas.features.shard import REMEDY, decode_checksums, stored_chunks
from cache_schemas.features.stored import Source, Wanted


def open_root(url: str) -> tuple[zarr.Group, RootAttributes]:
    """The root group of the cache at a path or URL; raises FeatureCacheError when it is none of this schema."""
    with explained(url):
        try:
            group = zarr.open_group(_store(url), mode="r", zarr_format=3)
        except FileNotFoundError:
            raise FeatureCacheError(f"{url}: no feature cache: run `bmnas features` first") from None
        attributes = dict(group.attrs)
    version = attributes.get("schema_version")
    if version != SCHEMA_VERSION:
        raise FeatureCacheError(
            f"{url}: not a feature cache of schema version {SCHEMA_VERSION} (it says {version}): remove it, and run "
            "`bmnas features` again"
        )
    return group, parse(RootAttributes, url, attributes)


def _store(url: str) -> Any:
    if "://" not in url:
        return Path(url)
    protocol = url.partition("://")[0]
    try:
        return zarr.storage.FsspecStore.from_url(url, read_only=True)
    except ImportError as error:
        extra = 'pip install "bmnas[s3]"' if protocol == "s3" else "install the package that it names"
        raise FeatureCacheError(f"{url}: {error}: {extra}") from None


def source_of(url: str) -> Source:
    """The shards of the cache at a path or URL."""
    return RemoteShards(url) if "://" in url else LocalShards(Path(url))


class LocalShards:
    """The shards of a folder."""

    lasting = MAPS

    def __init__(self, root: Path) -> None:
        self._root = root
        self._checksums: dict[tuple[str, int], NDArray[np.uint32]] = {}

    def file(self, variant: VariantAttributes, layer: str, shard: int) -> str:
        """The path of a shard."""
        return str(self._root / variant.array(layer) / shard_name(shard))

    def fetch(self, memory: Memory, wanted: list[Wanted]) -> None:
        """Maps the shards, each as a whole; where that cannot be, reads the chunks."""
        for part in wanted:
            geometry = part.geometry
            needed = (int(part.chunks[-1]) + 1) * geometry.chunk_bytes
            if memory.mapped.get(part.start, 0) >= needed:
                continue
            path = self.file(part.variant, part.layer, part.shard)
            where = f"{part.variant.array(part.layer)} ({path})"
            with explained(where), Path(path).open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                held = stored_chunks(size, geometry) * geometry.chunk_bytes
                if held < needed:
                    raise FeatureCacheError(
                        f"{where} is cut off: it has {size} bytes, its rows alone need {needed}. {REMEDY}"
                    )
                if not memory.map_file(file.fileno(), part.start, held, geometry.shard_bytes):
                    _read(file, memory, part)

    def checksums(self, variant: VariantAttributes, shard: int) -> NDArray[np.uint32]:
        """(shard_chunks, layers) of one shard, read once."""
        key = (variant.path, shard)
        if key not in self._checksums:
            name = f"{variant.path}/{CHECKSUMS}"
            path = self._root / name / table_name(shard)
            where = f"{name} ({path})"
            with explained(where):
                data = path.read_bytes()
            self._checksums[key] = decode_checksums(data, variant, where)
        return self._checksums[key]


def _read(file: io.RawIOBase, memory: Memory, part: Wanted) -> None:
    size = part.geometry.chunk_bytes
    for first, count in plan_ranges(part.chunks, gap=0):
        file.seek(first * size)
        target = memory.view[part.start + first * size : part.start + (first + count) * size]
        while len(target):
            read = file.readinto(target)
            if not read:
                raise EOFError("it became shorter")
            target = target[read:]


class RemoteShards:
    """The shards below an fsspec URL."""

    lasting = False

    def __init__(self, url: str) -> None:
        self._files, self._root = fsspec.core.url_to_fs(url)
        self._checksums: dict[tuple[str, int], NDArray[np.uint32]] = {}

    def file(self, variant: VariantAttributes, layer: str, shard: int) -> str:
        """The path of a shard on its server."""
        return f"{self._root}/{variant.array(layer)}/{shard_name(shard)}"

    def fetch(self, memory: Memory, wanted: list[Wanted]) -> None:
        """Reads runs of chunks, all at once."""
        ranges, targets = [], []
        for part in wanted:
            path, size = self.file(part.variant, part.layer, part.shard), part.geometry.chunk_bytes
            for first, count in plan_ranges(part.chunks, gap=GAP_BYTES // size):
                ranges.append(_Range(part.variant.array(part.layer), path, first * size, (first + count) * size))
                targets.append(part.start + first * size)
        for start, data in zip(targets, self._read(ranges), strict=True):
            memory.bytes[start : start + len(data)] = np.frombuffer(data, np.uint8)

    def checksums(self, variant: VariantAttributes, shard: int) -> NDArray[np.uint32]:
        """(shard_chunks, layers) of one shard, fetched once."""
        key = (variant.path, shard)
        if key not in self._checksums:
            name = f"{variant.path}/{CHECKSUMS}"
            size = 4 * variant.shard_chunks * len(variant.layers) + CHECKSUM_BYTES
            table = _Range(name, f"{self._root}/{name}/{table_name(shard)}", 0, size)
            self._checksums[key] = decode_checksums(self._read([table])[0], variant, table.where)
        return self._checksums[key]

    def _read(self, ranges: list[_Range]) -> list[bytes]:
        """Each range's bytes; raises FeatureCacheError for what is missing or too short."""
        paths, starts, ends = [r.path for r in ranges], [r.start for r in ranges], [r.end for r in ranges]
        with explained(self._files.unstrip_protocol(paths[0])):
            found = self._files.cat_ranges(paths, starts, ends, on_error="return")
        return [self._content(data, wanted) for data, wanted in zip(found, ranges, strict=True)]

    def _content(self, data: bytes | Exception, wanted: _Range) -> bytes:
        if isinstance(data, (FileNotFoundError, PermissionError)):
            raise FeatureCacheError(f"{wanted.where} cannot be read: {data}. {REMEDY}") from data
        if isinstance(data, OSError) and data.errno == errno.EINVAL:  # a range beyond the end of an object
            raise FeatureCacheError(f"{wanted.where} is cut off: {data}. {REMEDY}") from data
        if isinstance(data, Exception):
            with explained(self._files.unstrip_protocol(wanted.path)):
                raise data
        missing = wanted.end - wanted.start - len(data)
        if missing:
            raise FeatureCacheError(f"{wanted.where} is cut off: {missing} bytes are missing. {REMEDY}")
        return bytes(data)


@dataclass(frozen=True)
class _Range:
    """Bytes of one object that are wanted."""

    array: str
    path: str
    start: int
    end: int

    @property
    def where(self) -> str:
        return f"{self.array} ({self.path})"


GAP_BYTES = 2**20
"""What one more request costs, in bytes that could be read in the meantime."""


def plan_ranges(chunks: NDArray[np.int64], *, gap: int) -> list[tuple[int, int]]:
    """(first, count) of the runs that fetch the given chunks; up to `gap` unwanted ones between two are fetched too."""
    wanted = np.unique(chunks)
    breaks = np.flatnonzero(np.diff(wanted) > gap + 1) + 1
    return [(int(run[0]), int(run[-1] - run[0]) + 1) for run in np.split(wanted, breaks) if len(run)]


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Says what could not be read: Zarr and every file system raise errors of their own for damage and lost servers."""
    try:
        yield
    except FeatureCacheError:
        raise
    except Exception as error:
        told = f"{url} cannot be read: {error or type(error).__name__}"
        if "://" not in url:
            raise FeatureCacheError(f"{told}. {REMEDY}") from error
        raise FeatureCacheError(
            f"{told}. Check the URL, the network, and the endpoint and credentials in the environment (for S3: "
            "AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        ) from error
