"""Caches of formats 2 and 3 become one of today's: features bit-equal, keys and index as they were."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from filelock import FileLock
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec
from zarr.core.buffer.cpu import Buffer
from zarr.storage import MemoryStore

from cache_schemas.features.layout import (
    FORMATS,
    INDEX_COLUMNS,
    KEYS,
    REMEDY,
    SCHEMA_VERSION,
    FeatureCacheError,
    IndexAttributes,
    VariantAttributes,
    keys_text,
    parse,
)
from cache_schemas.features.staging import staging_folder
from cache_schemas.features.stored import explained
from cache_schemas.features.writer import FeatureCacheWriter

Advance = Callable[[int], None]


def migrate(path: Path, advance: Advance = lambda _: None) -> Path:
    """Rewrites the cache at `path`; returns where the old one lies now. advance: by so many rows.

    The new one grows beside it and takes its place at the end: killed at any time, it goes on where it stopped. Pieces
    that no shard holds yet are lost. Raises FeatureCacheError where there is no cache of FORMATS, or a damaged one.
    """
    places = {version: path.with_name(f"{path.name}.format-{version}") for version in (*FORMATS, SCHEMA_VERSION)}
    new = places.pop(SCHEMA_VERSION)
    if not path.exists() and new.exists():  # killed between the two renames
        kept = next(place for place in places.values() if place.exists())
    else:
        with explained(str(path)):
            version: Any = zarr.open_group(path, mode="r", zarr_format=3).attrs.get("schema_version")
        if version not in FORMATS:
            raise FeatureCacheError(
                f"{path}: a cache of schema version {version} cannot be migrated, only {', '.join(map(str, FORMATS))}"
            )
        kept = places[version]
        if kept.exists():
            raise FeatureCacheError(f"{kept} is in the way: move it elsewhere, the old cache is to be kept there")
        with FileLock(path.with_name(f"{path.name}.lock")):
            _rewrite(path, FeatureCacheWriter(new), advance)
            shutil.rmtree(staging_folder(path), ignore_errors=True)
            path.replace(kept)
    new.replace(path)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    return kept


def row_count(path: Path) -> int:
    """The rows that `migrate` goes through; 0 where only the last step is left."""
    return sum(len(old.keys) for old in _variants(path))


class _OldVariant:
    """One backbone's rows in a cache of format 2 or 3: (rows, C_in, L), in format 3 with a table of checksums."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, f"{folder.parent.name}/{folder.name}"
        with explained(str(folder)):
            attributes: dict[str, Any] = dict(zarr.open_group(folder, mode="r", zarr_format=3).attrs)
            stored: Any = zarr.open_array(folder / KEYS, mode="r", zarr_format=3)[...]
        self.variant = _variant(str(folder), attributes)
        self.shard_rows, self.chunk_rows = attributes["shard_rows"], attributes["chunk_rows"]
        self.keys = keys_text(stored)

    def rows(self, layer: str, first: int, count: int) -> NDArray[Any]:
        """(count, L, C_in) from row `first` on, the first of a shard, every chunk checked."""
        name = layer.partition("/")[2]
        with explained(f"{self.folder / name}, rows from {first} on"):
            values: Any = zarr.open_array(self.folder / name, mode="r", zarr_format=3)[first : first + count]
            if (self.folder / "checksum").exists():  # in format 2 Zarr checks them itself
                sums: Any = zarr.open_array(self.folder / "checksum", mode="r", zarr_format=3)
                chunks = slice(first // self.chunk_rows, -(-(first + count) // self.chunk_rows))
                _check(values, self.chunk_rows, sums[chunks, list(self.variant.layers).index(layer)])
        found: NDArray[Any] = values.transpose(0, 2, 1)
        return found


def _variants(path: Path) -> list[_OldVariant]:
    files = [file for modality in ("visual", "audio") for file in sorted((path / modality).glob("*/zarr.json"))]
    return [_OldVariant(file.parent) for file in files]


def _variant(where: str, attributes: Mapping[str, Any]) -> VariantAttributes:
    kept = {name: value for name, value in attributes.items() if name not in ("shard_rows", "chunk_rows")}
    return parse(VariantAttributes, where, kept)


def _check(values: NDArray[Any], chunk_rows: int, checksums: NDArray[np.uint32]) -> None:
    """Raises ValueError when a CRC-32C of `chunk_rows` rows, filled up with zeros, is another; 0: there are no rows."""
    size = chunk_rows * values[0].nbytes
    data = values.tobytes().ljust(len(checksums) * size, b"\0")
    chunks: Any = {
        f"c/{i}": Buffer.from_bytes(data[i * size : (i + 1) * size] + int(of).to_bytes(4, "little"))
        for i, of in enumerate(checksums)
        if of or data[i * size : (i + 1) * size].strip(b"\0")
    }
    codecs = [Crc32cCodec()]  # the checksums of format 3 are those of Zarr's own codec
    array = zarr.create_array(
        MemoryStore(chunks), shape=(len(data),), chunks=(size,), dtype="uint8", compressors=codecs
    )
    _ = array[...]


def _rewrite(path: Path, writer: FeatureCacheWriter, advance: Advance) -> None:
    variants = _variants(path)
    for old in variants:
        writer.add_variant(old.variant)
        for first in range(0, len(old.keys), old.shard_rows):
            with writer.lock():
                _copy_shard(old, first, writer)
            advance(len(old.keys[first : first + old.shard_rows]))
    with explained(str(path)):
        root = zarr.open_group(path, mode="r", zarr_format=3)
        index: Any = root[f"index/{root.attrs['index']}"] if root.attrs["index"] else None
    if index is not None:
        with explained(f"{path}/{index.path}"):
            _copy_index(index, writer, {old.variant: old for old in variants})


def _copy_shard(old: _OldVariant, first: int, writer: FeatureCacheWriter) -> None:
    """Appends what is not there yet."""
    present, keys = writer.stored(old.variant).keys(), old.keys[first : first + old.shard_rows]
    chosen = [i for i, key in enumerate(keys) if key and key not in present]

    def rows(layer: str, start: int, stop: int) -> NDArray[Any]:
        found: NDArray[Any] = old.rows(layer, first, len(keys))[chosen[start:stop]]
        return found

    writer.append(old.variant, [keys[i] for i in chosen], rows)


def _copy_index(index: Any, writer: FeatureCacheWriter, stored: Mapping[VariantAttributes, _OldVariant]) -> None:
    columns = {name: np.asarray(index[name][...]) for name in INDEX_COLUMNS if name != "split_kind"}
    frame = pd.DataFrame({name: x.astype(object) if x.dtype.kind == "T" else x for name, x in columns.items()})
    # Until now nobody wrote down how the split was made; one by subject has nobody in two.
    people = frame.groupby("subject_id")["split"].nunique().max()
    frame["split_kind"] = "official" if people > 1 else "subject"
    attributes = dict(index.attrs)
    variants, keys = [_variant(index.path, variant) for variant in attributes["variants"]], {}
    for variant in variants:
        old = stored[variant]
        keys[variant] = [old.keys[row] for row in index[f"row/{old.name}"][...].flat]
        if not all(keys[variant]):
            raise FeatureCacheError(f"{writer.path}: the index points to rows that are not there. {REMEDY}")
    writer.finish(frame, keys, IndexAttributes(**attributes | {"variants": variants}))
