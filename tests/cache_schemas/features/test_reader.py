"""Reading: selection, exact values, damage, streams, other readers."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from cache_schemas.features.sources import plan_ranges
from hypothesis import given
from hypothesis import strategies as st

from cache_schemas.features import FeatureCache, FeatureCacheError
from tests.cache_schemas.features.small_cache import (
    AUDIO,
    LENGTH,
    SHARD,
    VISUAL,
    build,
    check,
    key_of,
    names,
    truth,
    variant,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """21 windows; rows of the first ten lie behind those of the others."""
    path = tmp_path_factory.mktemp("reader") / "c.zarr"
    build(path, names(11, 10))
    build(path, names(21))
    return FeatureCache.open(path)


def rows_of(cache: FeatureCache, layer: str, windows: list[str]) -> torch.Tensor:
    of = cache.variant_of(layer)
    return torch.from_numpy(np.stack([truth(of, layer, key_of(of, window)) for window in windows]))


def test_load_selects_split_category_and_layers(cache: FeatureCache) -> None:
    check(cache.path, names(21))
    index = cache.index
    chosen = index[(index["split"] == "val") & (index["category"] == "RVRA")]
    assert 0 < len(chosen) < len(index[index["split"] == "val"])
    found = cache.load("val", ["audio/net.2"], category="RVRA")
    assert list(found) == ["audio/net.2"]
    assert torch.equal(found["audio/net.2"], rows_of(cache, "audio/net.2", list(chosen["clip_id"])))
    assert cache.layers == VISUAL.layers | AUDIO.layers


def test_unknown_names_are_listed_with_what_there_is(cache: FeatureCache) -> None:
    with pytest.raises(FeatureCacheError, match=r"no layer 'audio/x'; it has visual/net\.1, visual/net\.2, audio"):
        cache.load(layers=["audio/x"])
    with pytest.raises(FeatureCacheError, match=r"'dev' is not one of train, val, test"):
        cache.load("dev")
    with pytest.raises(FeatureCacheError, match=r"no window of category 'XX'; it has FVFA, RVRA"):
        cache.load(category="XX")
    with pytest.raises(FeatureCacheError, match="no feature cache: run `bmnas features` first"):
        FeatureCache.open(Path(cache.path).with_name("none.zarr"))


def test_an_unfinished_cache_says_what_to_run(tmp_path: Path) -> None:
    build(tmp_path / "c.zarr", names(5), stop_after=1)
    with pytest.raises(FeatureCacheError, match="did not finish: run `bmnas features` again"):
        FeatureCache.open(tmp_path / "c.zarr")


@given(st.lists(st.integers(0, 20), max_size=40))
def test_read_gives_any_rows_in_any_order(cache: FeatureCache, positions: list[int]) -> None:
    found = cache.read(np.array(positions, np.int64))
    windows = [names(21)[i] for i in positions]
    for layer, values in found.items():
        expected = rows_of(cache, layer, windows) if windows else torch.empty(0, *values.shape[1:]).half()
        assert torch.equal(values, expected)


def test_shared_tensors_are_the_same(cache: FeatureCache) -> None:
    shared, own = cache.load(shared=True), cache.load()
    assert all(tensor.is_shared() and torch.equal(tensor, own[name]) for name, tensor in shared.items())


@given(st.lists(st.integers(0, 60), min_size=1), st.integers(0, 4))
def test_ranges_cover_what_is_wanted_and_little_else(chunks: list[int], gap: int) -> None:
    runs = plan_ranges(np.array(chunks), gap=gap)
    covered = [chunk for first, count in runs for chunk in range(first, first + count)]
    assert len(covered) == len(set(covered))
    assert set(chunks) <= set(covered)
    for (first, count), (following, _) in itertools.pairwise(runs):
        assert following - (first + count) > gap
    for first, count in runs:
        inside = sorted({c for c in chunks if first <= c < first + count})
        assert (inside[0], inside[-1]) == (first, first + count - 1)
        assert all(b - a <= gap + 1 for a, b in itertools.pairwise(inside))


def test_any_zarr_reader_can_read_it(cache: FeatureCache) -> None:
    """Plain zarr.open finds values and index; it also finds damage, since the checksums are Zarr's own."""
    group: Any = zarr.open(cache.path, mode="r")
    index = group[f"index/{group.attrs['index']}"]
    assert list(index["clip_id"][:]) == names(21)
    rows = index[f"row/{VISUAL.path}"][:, 0]
    array = group[f"{VISUAL.path}/net.2"]
    assert array.shards == (SHARD, 64, LENGTH)
    for window, row in zip(names(21), rows, strict=True):
        assert np.array_equal(array[row], truth(VISUAL, "visual/net.2", key_of(VISUAL, window)))
        assert bytes(group[f"{VISUAL.path}/key"][row]).hex() == key_of(VISUAL, window)


def test_the_attributes_say_how_the_features_were_made(cache: FeatureCache) -> None:
    assert cache.attributes["backbones"] == {VISUAL.path: {"name": "net"}, AUDIO.path: {"name": "net"}}
    group: Any = zarr.open(cache.path, mode="r")
    assert group[VISUAL.path].attrs["backbone"] == {"name": "net"}


def test_layers_of_other_precision_keep_it(tmp_path: Path) -> None:
    single = variant(modality="audio", dtype="float32")
    build(tmp_path / "c.zarr", names(3), (VISUAL, single))
    check(tmp_path / "c.zarr", names(3), (VISUAL, single))
    cache = FeatureCache.open(tmp_path / "c.zarr")
    for values in (cache.load(), cache.load().batch(torch.arange(3)), cache.read([0, 1, 2])):
        assert values["audio/net.1"].dtype == torch.float32
        assert torch.equal(
            values["audio/net.1"][1], torch.from_numpy(truth(single, "audio/net.1", key_of(single, "w001")))
        )
