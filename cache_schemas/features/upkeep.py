"""Looking after a feature cache: what is in it, whether it is whole, forgetting damage, merging two, statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cache_schemas.features.layout import (
    KEYS,
    REMEDY,
    Control,
    FeatureCacheError,
    RootAttributes,
    VariantAttributes,
    keys_text,
)
from cache_schemas.features.reader import FeatureCache
from cache_schemas.features.stored import StoredRows, members, noted, open_root, read_rows, size_of, stored_rows
from cache_schemas.features.writer import FeatureCacheWriter, RowSource, index_is_whole, remove_folder, set_index

Advance = Callable[[int], None]
BLOCK_WINDOWS = 4096
"""Windows that statistics hold in memory at once."""


@dataclass(frozen=True)
class VariantSummary:
    """What the cache holds of one backbone."""

    variant: VariantAttributes
    rows: int
    used: int
    """Rows that the index points to, or its control does."""
    shards: int
    bytes: int
    layer_bytes: dict[str, int]
    versions: list[dict[str, str]]
    """Of the libraries that computed the rows."""


def summarise(url: Path | str) -> list[VariantSummary]:
    """One entry a variant of the cache at a path or URL."""
    indexes = both_indexes(FeatureCache.open(url)) if open_root(str(url))[1].index else []
    found = []
    for stored in stored_rows(str(url)):
        variant = stored.variant
        rows = np.array(list(stored.keys().values()), np.int64)
        versions = {str(of): of for of in stored.versions(np.sort(rows))}
        found.append(
            VariantSummary(
                variant,
                rows=len(rows),
                used=_used(variant, indexes),
                shards=len(np.unique(rows // stored.shard_rows)),
                bytes=size_of(f"{url}/{variant.path}"),
                layer_bytes={layer: size_of(f"{url}/{variant.array(layer)}") for layer in variant.layers},
                versions=[of for of in versions.values() if of],
            )
        )
    return found


def _used(variant: VariantAttributes, indexes: Sequence[FeatureCache]) -> int:
    rows = [one.rows(variant).ravel() for one in indexes if variant in one.variants]
    return len(np.unique(np.concatenate(rows))) if rows else 0


def both_indexes(cache: FeatureCache) -> list[FeatureCache]:
    """The index, and that of its control, if it has one."""
    control = cache.control()
    return [cache] if control is None else [cache, control]


def shard_count(url: Path | str) -> int:
    """How many shards `verify` goes through, as far as it can be told without reading them."""
    return sum(len(stored.numbers) for stored in stored_rows(str(url), unreadable=[]))


@dataclass
class Verification:
    """What `verify` found."""

    shards: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    damaged: list[tuple[VariantAttributes, int]] = field(default_factory=list)
    """Shards with a problem, for `drop`."""


def verify(url: Path | str, advance: Advance = lambda _: None) -> Verification:
    """Checks every byte of every shard, the schema, and the index against the rows; advance: by so many shards."""
    found, root = Verification(), open_root(str(url))[1]
    committed: dict[str, set[int]] = {}
    for stored in stored_rows(str(url), found.problems):
        committed[stored.variant.path] = rows = set()
        for number in stored.numbers:
            before = len(found.problems)
            rows.update(_verify_shard(stored, number, found))
            if len(found.problems) > before:
                found.damaged.append((stored.variant, number))
            advance(1)
    for name in members(str(url), "index"):
        if name not in (root.index, root.control) and not index_is_whole(str(url), name):
            remedy = "Nobody needs it to compute: `bmnas cache gc --older-than 0` takes it away"
            found.problems.append(f"{url}/index/{name}, of an earlier run, is damaged. {remedy}")
    if root.index:
        with noted(found.problems):
            cache, *control = both_indexes(FeatureCache.open(url))
            _verify_index(cache, found)
            for index in (cache, *control):
                _verify_rows(index, committed, found)
                if not all(np.array_equal(index.column(name), cache.column(name)) for name in ("clip_id", "start_s")):
                    found.problems.append(f"{url}: its control is of other windows. {REMEDY}")
    return found


def _verify_shard(stored: StoredRows, number: int, found: Verification) -> list[int]:
    """The rows of the shard."""
    first, keys = number * stored.shard_rows, []
    with noted(found.problems):
        keys = stored.shard_keys(number)
    used = [first + i for i, key in enumerate(keys) if key]
    if len({key for key in keys if key}) < len(used):
        found.problems.append(f"{stored.file(KEYS, number)} holds a row twice. {REMEDY}")
    for layer in stored.variant.layers if used else ():
        with noted(found.problems):
            rows = read_rows({layer: stored}, {layer: np.array(used, np.int64)})[layer]
            found.bytes += rows.nbytes
            if not np.isfinite(rows).all():
                found.problems.append(f"{stored.file(layer, number)}: a feature is not finite. {REMEDY}")
    found.shards += bool(used)
    return used


def _verify_rows(cache: FeatureCache, committed: dict[str, set[int]], found: Verification) -> None:
    url, rows = cache.path, {variant: cache.rows(variant) for variant in cache.variants}
    shape = (len(cache), cache.views + cache.pseudo)
    if not index_is_whole(url, cache.index_name):
        found.problems.append(f"{url}/index/{cache.index_name}: its name does not fit its content. {REMEDY}")
    for variant, numbers in rows.items():
        if variant.path not in committed:
            found.problems.append(f"{url}: the index names {variant.path}, which is missing or damaged. {REMEDY}")
        elif numbers.shape != shape or not committed[variant.path].issuperset(numbers.flat):
            found.problems.append(f"{url}: the index points to rows that {variant.path} does not have. {REMEDY}")
        own = numbers[cache.own(variant)]
        if len(np.unique(own)) != own.size:
            found.problems.append(f"{url}: two windows share a row of {variant.path}. {REMEDY}")


def _verify_index(cache: FeatureCache, found: Verification) -> None:
    url, index = cache.path, cache.index
    if index.duplicated(["clip_id", "start_s"]).any():
        found.problems.append(f"{url}: the index holds a window twice. {REMEDY}")
    for subject, splits in _in_two_splits(index).items():
        found.problems.append(f"{url}: subject {subject!r} is in the splits {', '.join(splits)}")


def _in_two_splits(index: pd.DataFrame) -> dict[str, list[str]]:
    """{subject: splits} of those who are in several, though the splits were made by subject; official ones may."""
    by_subject = index[index["split_kind"] != "official"]
    found = by_subject.groupby("subject_id")["split"].unique()
    return {str(subject): list(splits) for subject, splits in found.items() if len(splits) > 1}


def drop(path: Path, damaged: Sequence[tuple[VariantAttributes, int]]) -> None:
    """Forgets damaged shards and the index, so that `bmnas features` computes what was in them again."""
    writer = FeatureCacheWriter(path)
    with writer.lock():
        set_index(path, RootAttributes())
        remove_folder(path / "index")
        for variant, number in damaged:
            remove_shard(StoredRows(str(path), variant), number)


def remove_shard(stored: StoredRows, number: int) -> None:
    """The keys first: from then on its rows do not count."""
    for layer in (KEYS, *stored.variant.layers):
        Path(stored.file(layer, number)).unlink(missing_ok=True)


def row_source(stored: StoredRows, rows: NDArray[np.int64]) -> RowSource:
    """Rows of a cache as a source for `append`, checked as they are read; rows: (n,)."""
    return lambda layer, start, stop: read_rows({layer: stored}, {layer: rows[start:stop]})[layer]


def merge(path: Path, source: Path | str) -> dict[str, int]:
    """{variant path: rows added} after taking from `source` what the cache at `path` lacks; `source` stays as it is.

    Two indexes of the same parameters become one, in the order of the manifest (path, then window). Raises
    FeatureCacheError when they contradict one another; rows that were merged by then are kept.
    """
    theirs = FeatureCache.open(source)
    stored = stored_rows(str(source))
    writer = FeatureCacheWriter(path)
    added = {}
    for of in stored:
        writer.add_variant(of.variant)
    with writer.lock():
        ours = [FeatureCache.open(path)] if open_root(str(path))[1].index else []
        for of in stored:
            present = writer.stored(of.variant).keys()
            new = {key: row for key, row in of.keys().items() if key not in present}
            rows = np.array(list(new.values()), np.int64)
            writer.append(of.variant, list(new), row_source(of, rows), of.versions(rows))
            added[of.variant.path] = len(new)
        index, caches = _joined_index(ours[0], theirs) if ours else theirs.index, [*ours, theirs]
        control = _joined_control(index, caches)
        writer.finish(index, _joined_keys(index, caches), theirs.index_attributes, control=control)
    return added


def _joined_keys(index: pd.DataFrame, caches: Sequence[FeatureCache]) -> dict[VariantAttributes, list[str]]:
    keys = {}
    for variant in caches[-1].variants:
        views_of = {window: views for cache in caches for window, views in _window_keys(cache, variant)}
        keys[variant] = [key for window in _windows(index) for key in views_of[window]]
    return keys


def _joined_control(index: pd.DataFrame, caches: Sequence[FeatureCache]) -> Control | str:
    """Of random weights as of the others; where one of the caches has none, the next run computes what is missing."""
    controls = [control for cache in caches if (control := cache.control())]
    if len(controls) < len(caches) or not _alike(controls[0], controls[-1]):
        return "it was merged from caches of which not all had it: run `bmnas features`"
    return Control(_joined_keys(index, controls), controls[-1].index_attributes)


def _alike(ours: FeatureCache, theirs: FeatureCache) -> bool:
    mine, other = ours.index_attributes, theirs.index_attributes
    return mine.model_dump(exclude={"versions"}) == other.model_dump(exclude={"versions"})


def _joined_index(ours: FeatureCache, theirs: FeatureCache) -> pd.DataFrame:
    if not _alike(ours, theirs):
        raise FeatureCacheError(
            f"{ours.path} and {theirs.path} were made with other parameters or backbones: their rows lie side by side "
            "now; run `bmnas features` with the parameters you want to make an index of them"
        )
    both = pd.concat([ours.index, theirs.index], ignore_index=True)
    both = both.drop_duplicates().sort_values(["path", "window"], kind="stable", ignore_index=True)
    remedy = "run `bmnas manifest` and `bmnas features` with the whole data set; the rows are merged already"
    for column, what in ((["clip_id", "start_s"], "window"), (["path", "window"], "path")):
        twice = both[both.duplicated(column, keep=False)]
        if len(twice):
            row = twice.iloc[0]
            raise FeatureCacheError(
                f"{ours.path} and {theirs.path} describe the same {what} in two ways (clip {row['clip_id']}, "
                f"{row['path']}): {remedy}"
            )
    for subject in _in_two_splits(both):
        raise FeatureCacheError(f"{ours.path} and {theirs.path}: subject {subject!r} is in two splits: {remedy}")
    return both


def _windows(index: pd.DataFrame) -> Iterator[tuple[str, float]]:
    return zip(index["clip_id"], index["start_s"], strict=True)


def _window_keys(cache: FeatureCache, variant: VariantAttributes) -> Iterator[tuple[tuple[str, float], list[str]]]:
    """Every window, and the keys of its views."""
    return zip(_windows(cache.index), map(keys_text, cache.row_keys(variant)), strict=True)


def layer_statistics(cache: FeatureCache) -> Iterator[dict[str, Any]]:
    """Yields one row a layer, of view 0: mean, std, min, max, channels, and how many never change (dead)."""
    for layer, channels in cache.layers.items():
        total = square = 0.0
        low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
        for start in range(0, len(cache), BLOCK_WINDOWS):
            block = cache.read(np.arange(start, min(start + BLOCK_WINDOWS, len(cache))), [layer])[layer].numpy()
            total += float(block.sum(dtype=np.float64))
            square += float(np.square(block, dtype=np.float64).sum())
            low, high = np.minimum(low, block.min(axis=(0, 1, 2))), np.maximum(high, block.max(axis=(0, 1, 2)))
        count = len(cache) * cache.variant_of(layer).length * channels
        yield {
            "layer": layer,
            "channels": channels,
            "mean": total / count,
            "std": float(np.sqrt(max(0.0, square / count - (total / count) ** 2))),
            "min": float(low.min()),
            "max": float(high.max()),
            "dead": int((low == high).sum()),
        }
