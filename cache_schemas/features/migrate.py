"""Caches of formats 2 and 3 become one of today's: features bit-equal, keys and index as they were."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from filelock import FileLock
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec
from zarr.core.buffer.cpu import Buffer
from zarr.storage import MemoryStore

from cache_schemas.features.layout import (
    COLUMNS,
    KEY_BYTES,
    KEYS,
    REMEDY,
    SCHEMA_VERSION,
    FeatureCacheError,
    IndexAttributes,
    VariantAttributes,
    parse,
)
from cache_schemas.features.staging import staging_folder
from cache_schemas.features.stored import explained
from cache_schemas.features.writer import FeatureCacheWriter

FORMATS = (2, 3)
Advance = Callable[[int], None]


def migrate(path: Path, advance: Advance = lambda _: None) -> Path:
    """Rewrites the cache at `path`; returns where the old one lies now. advance: by so many rows.

    The new one grows beside it and takes its place at the end: killed at any time, it goes on where it stopped. Pieces
    that no shard holds yet are lost. Raises FeatureCacheError where there is no cache of FORMATS, or a damaged one.
    """
    new = path.with_name(f"{path.name}.format-{SCHEMA_VERSION}")
    if not path.exists() and new.exists():  # killed between the two renames
        version = next(v for v in FORMATS if path.with_name(f"{path.name}.format-{v}").exists())
    else:
        version = format_of(path)
        if version not in FORMATS:
            raise FeatureCacheError(
                f"{path}: a cache of schema version {version} cannot be migrated, only {', '.join(map(str, FORMATS))}"
            )
    kept = path.with_name(f"{path.name}.format-{version}")
    if path.exists():
        if kept.exists():
            raise FeatureCacheError(f"{kept} is in the way: move it elsewhere, the old cache is to be kept there")
        with FileLock(path.with_name(f"{path.name}.lock")):
            _rewrite(path, FeatureCacheWriter(new), advance)
            shutil.rmtree(staging_folder(path), ignore_errors=True)
            path.replace(kept)
    new.replace(path)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    return kept


def format_of(path: Path) -> Any:
    """The schema version of a cache; raises FeatureCacheError where there is none."""
    with explained(str(path)):
        return zarr.open_group(path, mode="r", zarr_format=3).attrs.get("schema_version")


def row_count(path: Path) -> int:
    """The rows of a cache of any format, with holes: what `migrate` goes through."""
    with explained(str(path)):
        return sum(len(_keys(path / name)) for name in _variants(path))


def _variants(path: Path) -> list[str]:
    return sorted(f"{m}/{f.parent.name}" for m in ("visual", "audio") for f in (path / m).glob("*/zarr.json"))


def _keys(folder: Path) -> list[str]:
    """The key of every row, "" where a row is free."""
    with explained(f"{folder}/{KEYS}"):
        stored: Any = zarr.open_array(folder / KEYS, mode="r", zarr_format=3)[...]
    text, size = stored.tobytes().hex(), 2 * KEY_BYTES
    keys = [text[i : i + size] for i in range(0, len(text), size)]
    return ["" if key == "0" * size else key for key in keys]


def _rewrite(path: Path, writer: FeatureCacheWriter, advance: Advance) -> None:
    places: dict[str, tuple[VariantAttributes, NDArray[np.int64]]] = {}
    for name in _variants(path):
        with explained(str(path / name)):
            attributes: dict[str, Any] = dict(zarr.open_group(path / name, mode="r", zarr_format=3).attrs)
        variant = _variant(f"{path / name}", attributes)
        writer.add_variant(variant)
        old, size = _keys(path / name), attributes["shard_rows"]
        for first in range(0, len(old), size):
            _copy_shard(path / name, attributes, writer, variant, old[first : first + size], first)
            advance(len(old[first : first + size]))
        present = writer.stored(variant).keys()
        places[name] = variant, np.array([present.get(key, -1) for key in old], np.int64)
    with explained(str(path)):
        root = zarr.open_group(path, mode="r", zarr_format=3)
        index: Any = root[f"index/{root.attrs['index']}"] if root.attrs["index"] else None
    if index is not None:
        with writer.lock(), explained(f"{path}/{index.path}"):
            _copy_index(index, writer, places)


def _variant(where: str, attributes: dict[str, Any]) -> VariantAttributes:
    kept = {name: value for name, value in attributes.items() if name not in ("shard_rows", "chunk_rows")}
    return parse(VariantAttributes, where, kept)


def _copy_shard(
    folder: Path, attributes: dict[str, Any], writer: FeatureCacheWriter, variant: VariantAttributes, keys: list[str],
    first: int,
) -> None:  # fmt: skip
    """Appends what is not there yet of the rows from `first` on."""
    with writer.lock():
        present = writer.stored(variant).keys()
        chosen = [i for i, key in enumerate(keys) if key and key not in present]

        def rows(layer: str, start: int, stop: int) -> NDArray[Any]:
            name = layer.partition("/")[2]
            with explained(f"{folder}/{name}, rows from {first} on"):
                array = zarr.open_array(folder / name, mode="r", zarr_format=3)
                values = np.asarray(array[first : first + len(keys)])
                if (folder / "checksum").exists():  # format 3; in format 2 Zarr checks them itself
                    size, column = attributes["chunk_rows"], list(variant.layers).index(layer)
                    sums: Any = zarr.open_array(folder / "checksum", mode="r", zarr_format=3)
                    _check(values, size, np.asarray(sums[first // size : -(-(first + len(keys)) // size), column]))
            return values[chosen[start:stop]].transpose(0, 2, 1)

        writer.append(variant, [keys[i] for i in chosen], rows)


def _check(values: NDArray[Any], chunk_rows: int, checksums: NDArray[np.uint32]) -> None:
    """Raises ValueError when a CRC-32C of `chunk_rows` rows, filled up with zeros, is another; 0: there are no rows."""
    size = chunk_rows * values[0].nbytes
    data = values.tobytes().ljust(len(checksums) * size, b"\0")
    chunks = {
        f"c/{i}": Buffer.from_bytes(data[i * size : (i + 1) * size] + int(of).to_bytes(4, "little"))
        for i, of in enumerate(checksums)
        if of or data[i * size : (i + 1) * size].strip(b"\0")
    }
    store = MemoryStore(chunks)  # type: ignore[arg-type]
    array = zarr.create_array(
        store, shape=(len(data),), chunks=(size,), dtype="uint8", compressors=[Crc32cCodec()], zarr_format=3
    )
    _ = array[...]


def _copy_index(
    index: Any, writer: FeatureCacheWriter, places: dict[str, tuple[VariantAttributes, NDArray[np.int64]]]
) -> None:
    import pandas as pd

    columns = {name: np.asarray(index[name][...]) for name, _ in COLUMNS if name != "split_kind"}
    frame = pd.DataFrame({name: x.astype(object) if x.dtype.kind == "T" else x for name, x in columns.items()})
    # Until now nobody wrote down how the split was made; one by subject has nobody in two.
    people = frame.groupby("subject_id")["split"].nunique().max() if len(frame) else 1
    frame["split_kind"] = "official" if people > 1 else "subject"
    attributes = dict(index.attrs)
    variants = [_variant("the index", variant) for variant in attributes["variants"]]
    old_names = {variant.path: name for name, (variant, _) in places.items()}
    rows = {v.path: places[old_names[v.path]][1][index[f"row/{old_names[v.path]}"][...]] for v in variants}
    if any((numbers < 0).any() for numbers in rows.values()):
        raise FeatureCacheError(f"{writer.path}: the index points to rows that are not there. {REMEDY}")
    writer.write_index(frame, rows, IndexAttributes(**attributes | {"variants": variants}))
