"""Whether the `zarr.json` files of a backbone say what they must: they are compared with those of an empty one."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import MemoryStore

from cache_schemas.features.layout import (
    CHECKSUMS,
    KEYS,
    FeatureCacheError,
    VariantAttributes,
    create_variant,
)
from cache_schemas.features.shard import REMEDY
from cache_schemas.features.sources import explained


def variant_problems(path: Path, variant: VariantAttributes) -> list[str]:
    """What is wrong with the arrays' metadata of a variant; their rows must agree with one another."""
    problems, rows = [], dict[str, int]()
    for name, wanted in _expected(variant).items():
        where = f"{path / variant.path / name}/zarr.json"
        try:
            with explained(where):
                actual = zarr.open_array(path / variant.path / name, mode="r", zarr_format=3).metadata
        except FeatureCacheError as error:
            problems.append(str(error))
            continue
        rows[name] = actual.shape[0]
        if replace(actual, shape=(0, *actual.shape[1:])) != wanted:
            problems.append(f"{where} says {actual}, which is not what was written. {REMEDY}")
    if KEYS in rows:
        chunks = -(-rows[KEYS] // variant.chunk_rows)
        for name, count in rows.items():
            wanted = chunks if name == CHECKSUMS else rows[KEYS]
            if count != wanted:
                problems.append(f"{path / variant.path / name}/zarr.json says {count} rows, not {wanted}. {REMEDY}")
    return problems


@functools.cache
def _expected(variant: VariantAttributes) -> dict[str, Any]:
    """{array: its metadata} of a variant without rows."""
    store = MemoryStore()
    create_variant(store, variant)
    names = [*(layer.partition("/")[2] for layer in variant.layers), KEYS, CHECKSUMS]
    return {name: zarr.open_array(store, path=name, mode="r", zarr_format=3).metadata for name in names}
