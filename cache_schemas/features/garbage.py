"""Giving back what a feature cache does not need: never what a run at work has staged or packed."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache_schemas.features.layout import Control, FeatureCacheError, VariantAttributes, keys_text
from cache_schemas.features.reader import FeatureCache
from cache_schemas.features.staging import remove_empty, staging_folder
from cache_schemas.features.stored import StoredRows, members, open_root, size_of, stored_variants
from cache_schemas.features.upkeep import both_indexes, remove_shard, row_source
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
        young = _young_indexes(path, older_than_seconds)
        indexes = both_indexes(cache)
        keys = [{variant: keys_text(one.row_keys(variant)) for variant in one.variants} for one in indexes]
        kept = {variant for one in (*indexes, *young) for variant in one.variants}
        old: list[tuple[StoredRows, int]] = []
        for variant in stored_variants(str(path)):
            if variant in kept:
                pinned = [one.rows(variant) for one in young if variant in one.variants]
                live = [key for of_index in keys for key in of_index.get(variant, [])]
                old += _repack(writer, variant, live, pinned)
        control = Control(keys[1], indexes[1].index_attributes) if indexes[1:] else open_root(str(path))[1].no_control
        writer.finish(cache.index, keys[0], cache.index_attributes, control=control)
        current = [one.index_name for one in both_indexes(FeatureCache.open(path))]
        for name in members(str(path), "index"):
            if name not in {*current, *(one.index_name for one in young)}:
                remove_folder(path / "index" / name)
        for variant in stored_variants(str(path)):
            if variant not in kept:
                remove_folder(path / variant.path)
        for stored, number in old:
            remove_shard(stored, number)
        for folder in staging_folder(path).glob("*/*"):  # pieces of backbones that no index names
            if f"{folder.parent.name}/{folder.name}" not in {variant.path for variant in kept}:
                remove_folder(folder)
        remove_empty(staging_folder(path))
    return before - size_of(str(path))


def _young_indexes(path: Path, older_than_seconds: float) -> list[FeatureCache]:
    """Those that can be read."""
    found = []
    for name in members(str(path), "index"):
        with suppress(FeatureCacheError, FileNotFoundError):
            if time.time() - (path / "index" / name / "zarr.json").stat().st_mtime < older_than_seconds:
                found.append(FeatureCache.open(path, name))
    return found


def _repack(
    writer: FeatureCacheWriter, variant: VariantAttributes, keys: list[str], pinned: list[NDArray[np.int64]]
) -> list[tuple[StoredRows, int]]:
    """The shards that are no longer needed once the index points to where the keys' rows went.

    Those whose keys never came are among them. pinned: rows of young indexes; the shards that hold them stay.
    """
    stored = writer.stored(variant)
    size, names, present = stored.shard_rows, stored.names(), stored.keys()
    live = sorted({present[key] for key in keys})
    held, used = (Counter(row // size for row in rows) for rows in (names, live))
    fixed = {int(number) for rows in pinned for number in np.unique(rows // size)}
    small = {number for number in stored.numbers if number not in fixed and used[number] < size}
    partial = [number for number in small if held[number]]
    if len(partial) == 1 and used[partial[0]] == held[partial[0]]:
        small -= {partial[0]}  # it would become one like it
    moving = np.array([row for row in live if row // size in small], np.int64)
    # A key then lies in two shards; the later one counts, and the earlier one goes.
    writer.append(variant, [names[row] for row in moving], row_source(stored, moving), stored.versions(moving))
    return [(stored, number) for number in small]


def _remove_leftovers(path: Path) -> None:
    """Temporary files that some writer never finished."""
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
