"""Looking after a feature cache: what is in it, whether it is whole, merging two, and giving space back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from cache_schemas.features.layout import (
    CHECKSUMS,
    INDEX_COLUMNS,
    KEYS,
    FeatureCacheError,
    VariantAttributes,
    parse,
    shard_name,
    table_name,
)
from cache_schemas.features.metadata import variant_problems
from cache_schemas.features.reader import FeatureCache
from cache_schemas.features.shard import REMEDY, check_shard
from cache_schemas.features.sources import LocalShards, explained
from cache_schemas.features.stored import StoredRows
from cache_schemas.features.writer import (
    FeatureCacheWriter,
    RowSource,
    committed_keys,
    index_name,
    read_root,
    set_index,
    shard_keys,
    shard_numbers,
    staging_folder,
)

Advance = Callable[[int], None]


def stored_variants(path: Path) -> list[VariantAttributes]:
    """Every variant that lies in the cache, those that no index covers included."""
    read_root(path)
    found = []
    for file in sorted([*path.glob("visual/*/zarr.json"), *path.glob("audio/*/zarr.json")]):
        where = f"{file.parent.parent.name}/{file.parent.name}"
        with explained(str(file)):
            attributes = dict(zarr.open_group(file.parent, mode="r", zarr_format=3).attrs)
        variant = parse(VariantAttributes, where, attributes)
        if variant.path != where:
            raise FeatureCacheError(f"{file}: its attributes belong to {variant.path}. {REMEDY}")
        found.append(variant)
    return found


@dataclass(frozen=True)
class VariantSummary:
    """What the cache holds of one backbone."""

    variant: VariantAttributes
    rows: int
    used: int
    """Rows that the index points to."""
    shards: int
    bytes: int


def summarise(path: Path) -> list[VariantSummary]:
    """One entry a variant: rows, how many of them are in use, shards, bytes."""
    cache = FeatureCache.open(path) if read_root(path).index else None
    covered = {variant.path for variant in cache.variants} if cache else set()
    return [
        VariantSummary(
            variant,
            rows=len(committed_keys(path, variant)),
            used=len(np.unique(cache.rows(variant))) if cache and variant.path in covered else 0,
            shards=len(shard_numbers(path, variant)),
            bytes=_bytes(path / variant.path),
        )
        for variant in stored_variants(path)
    ]


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@dataclass
class Verification:
    """What `verify` found."""

    shards: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    damaged: list[tuple[VariantAttributes, int]] = field(default_factory=list)
    """Shards with a problem, for `drop`."""


def verify(path: Path, advance: Advance = lambda _: None) -> Verification:
    """Checks every byte of every shard, the schema, and the index against the rows; advance: by so many shards."""
    found = Verification()
    for variant in stored_variants(path):
        found.problems += variant_problems(path, variant)
        seen: set[str] = set()
        for number in shard_numbers(path, variant):
            before = len(found.problems)
            _verify_shard(path, variant, number, seen, found)
            if len(found.problems) > before:
                found.damaged.append((variant, number))
            advance(1)
    if read_root(path).index:
        _verify_index(path, found)
    return found


def _verify_shard(path: Path, variant: VariantAttributes, number: int, seen: set[str], found: Verification) -> None:
    source = LocalShards(path)
    try:
        keys, checksums = shard_keys(path, variant, number), source.checksums(variant, number)
    except FeatureCacheError as error:
        found.problems.append(str(error))
        return
    used = [key for key in keys if key]
    if len(set(used)) < len(used) or not seen.isdisjoint(used):
        found.problems.append(f"{variant.path}: shard {number} holds a row twice. {REMEDY}")
    seen.update(used)
    for column, layer in enumerate(variant.layers):
        file = Path(source.file(variant, layer, number))
        where = f"{variant.array(layer)} ({file})"
        try:
            with explained(where):
                data = file.read_bytes()
            room = check_shard(data, variant.geometry(layer), checksums[:, column], where)
        except FeatureCacheError as error:
            found.problems.append(str(error))
            continue
        found.shards += 1
        found.bytes += len(data)
        if room < len(used):
            found.problems.append(f"{where} has room for {room} rows, its keys name {len(used)}. {REMEDY}")


def _verify_index(path: Path, found: Verification) -> None:
    try:
        cache = FeatureCache.open(path)
        index = cache.index
        rows = {variant: cache.rows(variant) for variant in cache.variants}
    except FeatureCacheError as error:
        found.problems.append(str(error))
        return
    columns = {name: index[name].to_numpy() for name in INDEX_COLUMNS}
    numbers_of = {variant.path: numbers for variant, numbers in rows.items()}
    name = read_root(path).index
    if index_name(cache.index_attributes, columns, numbers_of) != name:
        found.problems.append(f"{path}/index/{name}: its name does not fit its content. {REMEDY}")
    stored = {variant.path for variant in stored_variants(path)}
    for variant, numbers in rows.items():
        if variant.path not in stored:
            found.problems.append(f"{path}: the index names {variant.path}, which is missing. {REMEDY}")
            continue
        try:
            committed = set(committed_keys(path, variant).values())
        except FeatureCacheError:
            continue  # reported with its shard
        if numbers.shape != (len(index), cache.views) or not committed.issuperset(numbers.ravel().tolist()):
            found.problems.append(f"{path}: the index points to rows that {variant.path} does not have. {REMEDY}")
        if len(np.unique(numbers)) != numbers.size:
            found.problems.append(f"{path}: two windows share a row of {variant.path}. {REMEDY}")
    if index.duplicated(["clip_id", "start_s"]).any():
        found.problems.append(f"{path}: the index holds a window twice. {REMEDY}")
    for subject, splits in index.groupby("subject_id")["split"].unique().items():
        if len(splits) > 1:
            found.problems.append(f"{path}: subject {subject!r} is in the splits {', '.join(splits)}")


def drop(path: Path, damaged: Sequence[tuple[VariantAttributes, int]]) -> None:
    """Forgets damaged shards and the index, so that `bmnas features` computes what was in them again."""
    writer = FeatureCacheWriter(path)
    with writer.lock():
        set_index(path, "")
        if (path / "index").exists():
            shutil.rmtree(path / "index")
        for variant, number in damaged:
            _remove_shard(path, variant, number)


def _remove_shard(path: Path, variant: VariantAttributes, number: int) -> None:
    """The keys first: from then on its rows do not count."""
    (path / variant.path / KEYS / table_name(number)).unlink(missing_ok=True)
    (path / variant.path / CHECKSUMS / table_name(number)).unlink(missing_ok=True)
    for layer in variant.layers:
        (path / variant.array(layer) / shard_name(number)).unlink(missing_ok=True)


def stored_rows(path: Path, variant: VariantAttributes, rows: NDArray[np.int64]) -> RowSource:
    """Rows of a cache as a source for `append`, checked as they are read; rows: (n,)."""
    count = int(rows.max(initial=-1)) + 1
    stored = StoredRows(LocalShards(path), dict.fromkeys(variant.layers, variant), {variant.path: count})
    values = {layer: stored.place(layer).tensor(stored.bytes, count).numpy() for layer in variant.layers}

    def read(layer: str, start: int, stop: int) -> NDArray[Any]:
        wanted = rows[start:stop]
        stored.ensure({layer: wanted // variant.chunk_rows})
        found: NDArray[Any] = values[layer][wanted]
        return found

    return read


def collect_garbage(path: Path) -> int:
    """Bytes given back: variants and rows that the index does not use, small shards packed together, leftovers."""
    writer = FeatureCacheWriter(path)
    before = _bytes(path)
    with writer.lock():
        cache = FeatureCache.open(path)
        kept = {variant.path for variant in cache.variants}
        for variant in stored_variants(path):
            if variant.path not in kept:
                shutil.rmtree(path / variant.path)
        old: list[tuple[VariantAttributes, int]] = []
        rows = {}
        for variant in cache.variants:
            rows[variant.path] = cache.rows(variant).copy()
            old += [(variant, number) for number in _repack(writer, variant, rows[variant.path])]
        if old:
            writer.write_index(cache.index, rows, cache.index_attributes)
        for variant, number in old:
            _remove_shard(path, variant, number)
        _remove_leftovers(path, cache.variants)
    return before - _bytes(path)


def _repack(writer: FeatureCacheWriter, variant: VariantAttributes, rows: NDArray[np.int64]) -> list[int]:
    """The shards that are no longer needed; `rows` then points to where their live rows went."""
    live = np.unique(rows)
    counts = dict.fromkeys(shard_numbers(writer.path, variant), 0)
    for number in live // variant.shard_rows:
        counts[int(number)] += 1
    held = {number: sum(map(bool, shard_keys(writer.path, variant, number))) for number in counts}
    small = [n for n, used in counts.items() if used < variant.shard_rows]
    if len(small) == 1 and counts[small[0]] == held[small[0]]:
        return []
    moving = live[np.isin(live // variant.shard_rows, small)]
    if len(moving):
        keys = {row: key for key, row in committed_keys(writer.path, variant).items()}
        names = [keys[int(row)] for row in moving]
        writer.append(variant, names, stored_rows(writer.path, variant, moving))
        # A key now lies in two shards; the later one counts, and the earlier one goes.
        present = committed_keys(writer.path, variant)
        target = np.array([present[name] for name in names], np.int64)
        moved = np.isin(rows, moving)
        rows[moved] = target[np.searchsorted(moving, rows[moved])]
    return small


def _remove_leftovers(path: Path, variants: list[VariantAttributes]) -> None:
    """What killed runs left: temporary files, shards whose keys never came, pieces of variants that are gone."""
    for leftover in _temporary(path):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
    for variant in variants:
        numbers = set(shard_numbers(path, variant))
        for layer in variant.layers:
            for file in (path / variant.array(layer)).glob("c.*.0.0"):
                if int(file.name.split(".")[1]) not in numbers:
                    file.unlink()
        for file in (path / variant.path / CHECKSUMS).glob("c.*.0"):
            if int(file.name.split(".")[1]) not in numbers:
                file.unlink()
    for modality in ("visual", "audio"):
        for folder in (staging_folder(path) / modality).glob("*"):
            if folder.name not in {v.path.partition("/")[2] for v in variants if v.modality == modality}:
                shutil.rmtree(folder)


STALE_SECONDS = 3600.0
"""A temporary file among staged pieces, which workers write without the lock, is a leftover from this age on."""


def _temporary(path: Path) -> list[Path]:
    """Files and folders that some writer began and never finished. Who calls holds the lock."""
    found = [*path.parent.glob(f".{path.name}.*.tmp"), *path.rglob(".*.tmp")]
    found += path.rglob("*.partial")  # Zarr's own, of a zarr.json
    now = time.time()
    for file in staging_folder(path).rglob(".*.tmp"):
        with suppress(FileNotFoundError):  # just finished by its worker
            if now - file.stat().st_mtime > STALE_SECONDS:
                found.append(file)
    return found


def merge(path: Path, source: Path) -> dict[str, int]:
    """{variant path: rows added} after taking from `source` what the cache at `path` lacks; `source` stays as it is.

    Two indexes of the same parameters become one, in the order of the manifest (path, then window). Raises
    FeatureCacheError when they contradict one another; rows that were merged by then are kept.
    """
    theirs = FeatureCache.open(source)
    stored = stored_variants(source)
    writer = FeatureCacheWriter(path)
    added = {}
    for variant in stored:
        writer.add_variant(variant)
    with writer.lock():
        ours = FeatureCache.open(path) if read_root(path).index else None
        for variant in stored:
            present = committed_keys(path, variant)
            new = {key: row for key, row in committed_keys(source, variant).items() if key not in present}
            rows = np.array(list(new.values()), np.int64)
            writer.append(variant, list(new), stored_rows(source, variant, rows))
            added[variant.path] = len(new)
        if ours is None:
            index, keys = theirs.index, [_window_keys(theirs, source)]
        else:
            index = _joined_index(ours, theirs, path, source)
            keys = [_window_keys(ours, path), _window_keys(theirs, source)]
        rows_of = {}
        for variant in theirs.variants:
            present = committed_keys(path, variant)
            joined = {window: names for part in keys for window, names in part[variant.path].items()}
            windows = zip(index["clip_id"], index["start_s"], strict=True)
            rows_of[variant.path] = np.array([[present[k] for k in joined[w]] for w in windows], np.int64)
        writer.write_index(index, rows_of, theirs.index_attributes)
    return added


def _joined_index(ours: FeatureCache, theirs: FeatureCache, path: Path, source: Path) -> pd.DataFrame:
    mine, other = ours.index_attributes, theirs.index_attributes
    if mine.model_dump(exclude={"versions"}) != other.model_dump(exclude={"versions"}):
        raise FeatureCacheError(
            f"{path} and {source} were made with other parameters or backbones: their rows lie side by side now; run "
            "`bmnas features` with the parameters you want to make an index of them"
        )
    both = pd.concat([ours.index, theirs.index], ignore_index=True)
    both = both.drop_duplicates().sort_values(["path", "window"], kind="stable", ignore_index=True)
    for column, what in ((["clip_id", "start_s"], "window"), (["path", "window"], "path")):
        twice = both[both.duplicated(column, keep=False)]
        if len(twice):
            row = twice.iloc[0]
            raise FeatureCacheError(
                f"{path} and {source} describe the same {what} in two ways (clip {row['clip_id']}, {row['path']}): "
                "run `bmnas manifest` and `bmnas features` with the whole data set; the rows are merged already"
            )
    splits = both.groupby("subject_id")["split"].nunique()
    if (splits > 1).any():
        raise FeatureCacheError(
            f"{path} and {source}: subject {splits.idxmax()!r} is in two splits: run `bmnas manifest` and "
            "`bmnas features` with the whole data set; the rows are merged already"
        )
    return both


def _window_keys(cache: FeatureCache, path: Path) -> dict[str, dict[tuple[str, float], list[str]]]:
    """{variant path: {(clip_id, start_s): the key of every view}}."""
    windows = list(zip(cache.index["clip_id"], cache.index["start_s"], strict=True))
    found = {}
    for variant in cache.variants:
        names = {row: key for key, row in committed_keys(path, variant).items()}
        rows = cache.rows(variant).tolist()
        found[variant.path] = {w: [names[r] for r in views] for w, views in zip(windows, rows, strict=True)}
    return found
