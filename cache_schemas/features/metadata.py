"""Whether the `zarr.json` files of a cache say what they must: they are compared with those of an empty one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import MemoryStore

from cache_schemas.features.layout import (
    CHECKSUMS,
    INDEX_COLUMNS,
    KEYS,
    FeatureCacheError,
    IndexAttributes,
    VariantAttributes,
    create_index,
    create_variant,
)
from cache_schemas.features.shard import REMEDY
from cache_schemas.features.sources import explained


def variant_problems(path: Path, variant: VariantAttributes) -> list[str]:
    """What is wrong with the arrays' metadata of a variant; their rows must agree with one another."""
    expected = MemoryStore()
    create_variant(expected, variant)
    names = [*(layer.partition("/")[2] for layer in variant.layers), KEYS, CHECKSUMS]
    problems, rows = [], dict[str, int]()
    for name, found in _compared(path / variant.path, expected, names):
        if isinstance(found, str):
            problems.append(found)
        else:
            rows[name] = found
    if KEYS in rows:
        chunks = -(-rows[KEYS] // variant.chunk_rows)
        for name, count in rows.items():
            wanted = chunks if name == CHECKSUMS else rows[KEYS]
            if count != wanted:
                problems.append(f"{path / variant.path / name}/zarr.json says {count} rows, not {wanted}. {REMEDY}")
    return problems


def index_problems(
    folder: Path, attributes: IndexAttributes, columns: Mapping[str, Any], rows: Mapping[str, Any]
) -> list[str]:
    """What is wrong with the columns' metadata of the index in `folder`."""
    expected = MemoryStore()
    create_index(expected, attributes, columns, rows)
    found = dict(_compared(folder, expected, [*INDEX_COLUMNS, *(f"row/{path}" for path in rows)]))
    problems = [result for result in found.values() if isinstance(result, str)]
    wrong = [name for name, result in found.items() if isinstance(result, int) and result != len(columns["window"])]
    return problems + [f"{folder}/{name}/zarr.json says another number of rows. {REMEDY}" for name in wrong]


def _compared(folder: Path, expected: MemoryStore, names: list[str]) -> Iterator[tuple[str, int | str]]:
    """Yields every array's name, and how many rows it says it has or what is wrong with it."""
    for name in names:
        where = f"{folder / name}/zarr.json"
        try:
            with explained(where):
                actual = zarr.open_array(folder / name, mode="r", zarr_format=3).metadata
        except FeatureCacheError as error:
            yield name, str(error)
            continue
        wanted = zarr.open_array(expected, path=name, mode="r", zarr_format=3).metadata
        rows = actual.shape[0]
        if replace(actual, shape=(0, *actual.shape[1:])) == replace(wanted, shape=(0, *wanted.shape[1:])):
            yield name, rows
        else:
            yield name, f"{where} says {actual}, which is not what was written. {REMEDY}"
