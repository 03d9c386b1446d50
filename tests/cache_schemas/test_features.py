"""The feature cache: planning, committing, resuming, reading."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schemas.features import (
    INDEX_COLUMNS,
    Block,
    FeatureCache,
    FeatureCacheError,
    FeatureCacheWriter,
    plan_blocks,
    write_block,
)

LAYERS = {"visual/net.1": 3, "audio/net.1": 5}
SHARD, LENGTH = 4, 2
ATTRIBUTES: dict[str, Any] = {"layers": list(LAYERS), "length": LENGTH, "dtype": "float16", "shard_windows": SHARD}


def truth(key: str, layer: str) -> np.ndarray[Any, np.dtype[np.float16]]:
    """What the layer holds for a key: any values that differ between keys."""
    rng = np.random.default_rng([*key.encode(), *layer.encode()])
    return rng.standard_normal((LAYERS[layer], LENGTH)).astype(np.float16)


def compute(path: Path, block: Block) -> None:
    new = [block.keys[i] for i in block.new]
    write_block(path, block, {layer: np.stack([truth(key, layer) for key in new]) for layer in LAYERS})


def index_of(keys: list[str]) -> pd.DataFrame:
    columns: dict[str, list[Any]] = {}
    for name, dtype in INDEX_COLUMNS.items():
        columns[name] = [{"string": "x", "bool": True}.get(dtype, 0)] * len(keys)
    columns |= {"clip_id": keys, "split": ["train" if i % 2 else "test" for i in range(len(keys))]}
    return pd.DataFrame(columns)


def build(path: Path, keys: list[str], *, stop_after: int | None = None) -> FeatureCache | None:
    """One run of the features stage; `stop_after` blocks it is killed."""
    writer = FeatureCacheWriter(path, LAYERS, ATTRIBUTES)
    for done, block in enumerate(writer.plan(keys)):
        if done == stop_after:
            return None
        compute(path, block)
        writer.commit(block)
    writer.finish(index_of(keys), keys)
    return FeatureCache.open(path)


def check(cache: FeatureCache | None, keys: list[str]) -> None:
    assert cache is not None
    assert list(cache.index["clip_id"]) == keys
    for layer, values in cache.load().items():
        assert values.dtype == torch.float16
        assert np.array_equal(values.numpy(), np.stack([truth(key, layer) for key in keys]))


names = st.lists(st.text("abcdef", min_size=1, max_size=3), unique=True, min_size=1, max_size=14)


@given(names, names, st.integers(1, 5))
def test_a_plan_places_each_missing_key_once_and_moves_none(old: list[str], wanted: list[str], shard: int) -> None:
    present = [key for block in plan_blocks([], old, shard) for key in block.keys]
    blocks = plan_blocks(present, wanted, shard)
    rows = {block.start + i: block.keys[i] for block in blocks for i in block.new}
    assert sorted(rows.values()) == sorted(set(wanted) - set(old))
    for block in blocks:
        assert block.start % shard == 0
        assert len(block.keys) == shard
        for i, key in enumerate(block.keys):
            before = present[block.start + i] if block.start + i < len(present) else ""
            assert key == before or (before == "" and i in block.new)


@given(names, st.data(), st.integers(1, 5))
def test_whatever_was_finished_before_a_kill_the_rows_end_the_same(
    wanted: list[str], data: st.DataObject, shard: int
) -> None:
    blocks = plan_blocks([], wanted, shard)
    undisturbed = [key for block in blocks for key in block.keys]
    finished = data.draw(st.sets(st.sampled_from(range(len(blocks)))))
    keys = [key if row // shard in finished else "" for row, key in enumerate(undisturbed)]
    for block in plan_blocks(keys, wanted, shard):
        keys[block.start : block.start + shard] = block.keys
    assert keys == undisturbed


@settings(max_examples=15, deadline=None)
@given(names, names, st.integers(0, 3))
def test_a_cache_that_was_killed_and_grew_reads_like_a_new_one(
    tmp_path_factory: pytest.TempPathFactory, first: list[str], second: list[str], stop: int
) -> None:
    path = tmp_path_factory.mktemp("cache") / "c.zarr"
    build(path, first, stop_after=stop)
    check(build(path, second), second)
    check(build(path, sorted({*first, *second})), sorted({*first, *second}))


def test_a_killed_run_is_resumed_and_nothing_finished_is_computed_again(tmp_path: Path) -> None:
    path, keys = tmp_path / "c.zarr", [f"k{i}" for i in range(11)]
    build(path, keys, stop_after=2)
    (path / "visual" / "net.1" / "c" / "zz.partial").write_bytes(b"half a shard")
    with pytest.raises(FeatureCacheError, match="did not finish"):
        FeatureCache.open(path)
    writer = FeatureCacheWriter(path, LAYERS, ATTRIBUTES)
    assert [block.start for block in writer.plan(keys)] == [8]
    assert not list(path.rglob("*.partial"))
    check(build(path, keys), keys)
    assert FeatureCacheWriter(path, LAYERS, ATTRIBUTES).plan(keys) == []


def test_layers_written_without_their_keys_do_not_count(tmp_path: Path) -> None:
    path, keys = tmp_path / "c.zarr", ["a", "b"]
    writer = FeatureCacheWriter(path, LAYERS, ATTRIBUTES)
    block = writer.plan(keys)[0]
    write_block(path, block, {layer: np.ones((2, c, LENGTH), np.float16) for layer, c in LAYERS.items()})
    check(build(path, keys), keys)


def test_adding_rows_keeps_full_shards_untouched(tmp_path: Path) -> None:
    path, keys = tmp_path / "c.zarr", [f"k{i}" for i in range(6)]
    build(path, keys)
    shards = {p: p.stat().st_mtime_ns for p in path.glob("visual/net.1/c/**/*") if p.is_file()}
    check(build(path, [*keys, "new"]), [*keys, "new"])
    untouched = [p for p, stamp in shards.items() if p.stat().st_mtime_ns == stamp]
    assert len(shards) == 2
    assert len(untouched) == 1


def test_other_attributes_begin_a_new_cache(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    build(path, ["a"])
    writer = FeatureCacheWriter(path, LAYERS, ATTRIBUTES | {"backbone": "another"})
    assert [block.new for block in writer.plan(["a"])] == [(0,)]


def test_load_selects_split_and_layers(tmp_path: Path) -> None:
    keys = ["a", "b", "c"]
    cache = build(tmp_path / "c.zarr", keys)
    assert cache is not None
    assert cache.layers == LAYERS
    found = cache.load("test", ["audio/net.1"])
    assert list(found) == ["audio/net.1"]
    assert np.array_equal(found["audio/net.1"].numpy(), np.stack([truth(k, "audio/net.1") for k in ("a", "c")]))
    with pytest.raises(FeatureCacheError, match=r"no layer 'audio/x'; it has visual/net\.1"):
        cache.load(layers=["audio/x"])
    with pytest.raises(FeatureCacheError, match=r"'dev' is not"):
        cache.load("dev")


def test_any_zarr_reader_can_read_it(tmp_path: Path) -> None:
    keys = ["a", "b", "c", "d", "e"]
    build(tmp_path / "c.zarr", keys)
    group: Any = zarr.open(tmp_path / "c.zarr", mode="r")
    rows = group["index/row"][:]
    assert list(group["index/clip_id"][:]) == keys
    assert np.array_equal(group["visual/net.1"][:][rows[4]], truth("e", "visual/net.1"))
    assert group["visual/net.1"].shards == (SHARD, 3, LENGTH)


def test_no_cache_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FeatureCacheError, match="run `bmnas features` first"):
        FeatureCache.open(tmp_path / "none.zarr")
