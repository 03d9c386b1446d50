"""Giving back what a feature cache does not need: never what a run at work has staged or packed."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache_schemas.features.layout import KEYS, FeatureCacheError, VariantAttributes
from cache_schemas.features.reader import FeatureCache
from cache_schemas.features.staging import staging_folder
from cache_schemas.features.stored import StoredRows, size_of, stored_variants
from cache_schemas.features.upkeep import remove_shard, row_source
from cache_schemas.features.writer import FeatureCacheWriter, remove_folder

STALE_SECONDS = 3600.0
"""A temporary file among staged pieces, which workers write without the lock, is a leftover from this age on."""


def collect_garbage(path: Path, *, older_than_seconds: float) -> int:
    """Bytes given back: rows that no index uses, small shards packed together, what killed runs left.

    An index that does not count any more goes once it is older than `older_than_seconds`: until then its rows stay
    where they are. Raises FeatureCacheError while a run is at work on the cache.
    """
    writer = FeatureCacheWriter(path)
    before = size_of(str(path))
    with writer.lock():
        if writer.runs_at_work():
            raise FeatureCacheError(f"{path}: a run is at work on it: wait for its end, then run `bmnas cache gc`")
        _remove_leftovers(path)
        cache = FeatureCache.open(path)
        young = [cache for cache in _indexes(path) if _age(cache) < older_than_seconds]
        kept = {variant.path: variant for one in (cache, *young) for variant in one.variants}
        old: list[tuple[StoredRows, int]] = []
        rows = {variant.path: cache.rows(variant).copy() for variant in cache.variants}
        for variant in stored_variants(str(path)):
            if variant.path in kept:
                pinned = [one.rows(variant) for one in young if variant in one.variants]
                old += _repack(writer, variant, rows.get(variant.path, np.empty((0, 1), np.int64)), pinned)
        if any(not np.array_equal(rows[v.path], cache.rows(v)) for v in cache.variants):
            writer.write_index(cache.index, rows, cache.index_attributes)
        current = FeatureCache.open(path).index_name
        for name in {folder.name for folder in (path / "index").iterdir() if folder.is_dir()}:
            if name not in {current, *(one.index_name for one in young)}:
                remove_folder(path / "index" / name)
        for variant in stored_variants(str(path)):
            if variant.path not in kept:
                remove_folder(path / variant.path)
        for stored, number in old:
            remove_shard(stored, number)
        _remove_unknown_pieces(path, set(kept))
    return before - size_of(str(path))


def _indexes(path: Path) -> list[FeatureCache]:
    """Every index that can be read."""
    found = []
    for folder in (path / "index").iterdir():
        with suppress(FeatureCacheError):
            if folder.is_dir():
                found.append(FeatureCache.open(path, folder.name))
    return found


def _age(cache: FeatureCache) -> float:
    return time.time() - (Path(cache.path) / "index" / cache.index_name / "zarr.json").stat().st_mtime


def _repack(
    writer: FeatureCacheWriter, variant: VariantAttributes, rows: NDArray[np.int64], pinned: list[NDArray[np.int64]]
) -> list[tuple[StoredRows, int]]:
    """The shards that are no longer needed; `rows` (N, V) then points to where its rows went.

    pinned: rows of young indexes; the shards that hold them stay.
    """
    stored = writer.stored(variant)
    size = stored.shard_rows
    held = {number: count for number in stored.numbers if (count := sum(map(bool, stored.shard_keys(number))))}
    live, fixed = np.unique(rows), {int(n) for part in pinned for n in np.unique(part // size)}
    used = {int(n): int(c) for n, c in zip(*np.unique(live // size, return_counts=True), strict=True)}
    small = [number for number in held if number not in fixed and used.get(number, 0) < size]
    if len(small) == 1 and used.get(small[0], 0) == held[small[0]]:
        return []
    moving = live[np.isin(live // size, small)]
    if len(moving):
        names = stored.names()
        keys = [names[row] for row in moving.tolist()]
        first = writer.append(variant, keys, row_source(stored, moving), stored.versions(moving))
        # A key now lies in two shards; the later one counts, and the earlier one goes.
        moved = np.isin(rows, moving)
        rows[moved] = first + np.searchsorted(moving, rows[moved])
    return [(stored, number) for number in small]


def _remove_leftovers(path: Path) -> None:
    """Temporary files that some writer never finished, and shards whose keys never came."""
    now = time.time()
    found = [*path.parent.glob(f".{path.name}.*.tmp"), *path.rglob(".*.tmp"), *path.rglob("*.partial")]
    for file in staging_folder(path).rglob(".*.tmp"):
        with suppress(FileNotFoundError):  # just finished by its worker
            if now - file.stat().st_mtime > STALE_SECONDS:
                found.append(file)
    for leftover in found:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
    for variant in stored_variants(str(path)):
        stored = StoredRows(str(path), variant)
        for number in stored.numbers:
            if not Path(stored.file(KEYS, number)).exists():
                remove_shard(stored, number)


def _remove_unknown_pieces(path: Path, kept: set[str]) -> None:
    """Staged pieces of backbones that no index names."""
    for folder in staging_folder(path).glob("*/*"):
        if f"{folder.parent.name}/{folder.name}" not in kept:
            remove_folder(folder)
    with suppress(OSError):  # pieces are left
        for inner in (*staging_folder(path).iterdir(), staging_folder(path)):
            inner.rmdir()
