"""Reading: selection, exact values, other readers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st

from cache_schemas.features import FeatureCache, FeatureCacheError
from tests.cache_schemas.features import small_cache
from tests.cache_schemas.features.small_cache import (
    AUDIO,
    LENGTH,
    SHARD,
    VISUAL,
    build,
    check,
    index_of,
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


def test_what_stands_in_for_missing_sound_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = names(9)
    mute = np.arange(9) % 4 == 1
    monkeypatch.setattr(small_cache, "index_of", lambda found: index_of(found).assign(has_audio=~mute))
    build(tmp_path / "c.zarr", windows, views=2)
    cache = FeatureCache.open(tmp_path / "c.zarr")
    stored = cache.read(range(9), views=(0, 1))
    for layer, x in cache.load(views=True).items():
        assert stored[layer].any(dim=-1).all(), "what is stored is there to be checked"
        expected = stored[layer].clone()
        if layer.startswith("audio/"):
            expected[:, mute] = 0
        assert torch.equal(x, expected)
    chosen = cache.load("val")
    where = cache.select("val")
    assert torch.equal(chosen["audio/net.1"], cache.load()["audio/net.1"][where])


def test_unknown_names_are_listed_with_what_there_is(cache: FeatureCache) -> None:
    with pytest.raises(FeatureCacheError, match=r"no layer 'audio/x'; it has visual/net\.1, visual/net\.2, audio"):
        cache.load(layers=["audio/x"])
    with pytest.raises(FeatureCacheError, match=r"'dev' is not one of train, val, test"):
        cache.load("dev")
    with pytest.raises(FeatureCacheError, match=r"no window of category 'XX'; it has FVFA, RVRA"):
        cache.load(category="XX")
    with pytest.raises(FeatureCacheError, match="no feature cache: run `bmnas features` first"):
        FeatureCache.open(Path(cache.path).with_name("none.zarr"))


@given(st.lists(st.integers(0, 20), max_size=40))
def test_read_gives_any_rows_in_any_order(cache: FeatureCache, positions: list[int]) -> None:
    windows = [names(21)[i] for i in positions]
    for layer, values in cache.read(positions).items():
        expected = rows_of(cache, layer, windows) if windows else torch.empty(0, *values.shape[2:]).half()
        assert torch.equal(values, expected[None])


@pytest.mark.parametrize("grown", [False, True])
def test_loaded_layers_are_contiguous_and_one_s_own(path: Path, grown: bool) -> None:
    """`nas` takes them without a copy, whatever lies where; writing to them changes no file."""
    if grown:
        build(path, names(9, 10), views=2)
    build(path, names(21), views=2)
    for views, shape in ((False, (21, LENGTH, 64)), (True, (2, 21, LENGTH, 64))):
        loaded = FeatureCache.open(path).load(views=views)
        assert loaded["visual/net.2"].shape == shape
        for values in loaded.values():
            assert values.is_contiguous()
            values[:] = 7
    check(path, names(21))


def test_an_empty_selection_has_the_layers_shapes(path: Path) -> None:
    build(path, ["w000"])  # in one split only
    cache = FeatureCache.open(path)
    empty = next(s for s in ("train", "val") if s not in set(cache.index["split"]))
    assert cache.load(empty)["visual/net.2"].shape == (0, LENGTH, 64)
    assert cache.load(empty, views=True)["visual/net.2"].shape == (1, 0, LENGTH, 64)


def test_a_reader_does_not_keep_files_open(path: Path) -> None:
    build(path, names(21), (VISUAL, AUDIO))
    loaded = FeatureCache.open(path).load()
    open_files = [Path(f"/proc/self/fd/{f.name}") for f in Path("/proc/self/fd").iterdir()]
    assert not any("c.zarr" in str(f.readlink()) for f in open_files if f.is_symlink())
    assert len(loaded) == 4


def text(column: Any) -> list[str]:
    """As docs/cache.md says that text is read."""
    return [bytes(row).rstrip(b"\0").decode() for row in column[:]]


def test_any_zarr_reader_can_read_it(cache: FeatureCache) -> None:
    group: Any = zarr.open(cache.path, mode="r")
    index = group[f"index/{group.attrs['index']}"]
    assert text(index["clip_id"]) == names(21)
    rows = index[f"row/{VISUAL.path}"][:, 0]
    array = group[f"{VISUAL.path}/net.2"]
    assert array.shards == (SHARD, LENGTH, 64)
    for window, row in zip(names(21), rows, strict=True):
        assert np.array_equal(array[row], truth(VISUAL, "visual/net.2", key_of(VISUAL, window)))
        assert bytes(group[f"{VISUAL.path}/key"][row]).hex() == key_of(VISUAL, window)


def test_any_zarr_reader_finds_damage(cache: FeatureCache, path: Path) -> None:
    """The checksums are Zarr's own, of every layer, the keys and the index; a missing shard is no row of zeros."""
    shutil.copytree(cache.path, path)
    group: Any = zarr.open(path, mode="r")
    index = f"index/{group.attrs['index']}/label"
    for name, file in ((f"{VISUAL.path}/net.2", "c.1.0.0"), (f"{VISUAL.path}/key", "c.1.0"), (index, "c.0")):
        whole = (path / name / file).read_bytes()
        (path / name / file).write_bytes(whole[:5] + bytes([whole[5] ^ 4]) + whole[6:])
        with pytest.raises(ValueError, match="checksum"):
            group[name][:]
        (path / name / file).write_bytes(whole)
    (path / VISUAL.path / "net.2" / "c.1.0.0").unlink()
    assert np.isnan(group[f"{VISUAL.path}/net.2"][SHARD : 2 * SHARD]).any()


def test_only_codecs_that_every_reader_knows(cache: FeatureCache) -> None:
    """And only numbers: zarr-python's own text and its codec are read by few."""
    kinds, codecs = set(), set()
    for file in Path(cache.path).rglob("zarr.json"):
        found = json.loads(file.read_text())
        if found["node_type"] == "array":
            kinds.add(found["data_type"])
            codecs |= {codec["name"] for codec in found["codecs"]}
    assert kinds == {"float16", "float64", "int64", "bool", "uint8"}
    assert codecs == {"sharding_indexed", "bytes", "zstd", "crc32c"}


def test_the_attributes_say_how_the_features_were_made(cache: FeatureCache) -> None:
    assert cache.attributes["backbones"] == {VISUAL.path: {"name": "net"}, AUDIO.path: {"name": "net"}}
    group: Any = zarr.open(cache.path, mode="r")
    assert group[VISUAL.path].attrs["backbone"] == {"name": "net"}


def test_layers_of_other_precision_keep_it(path: Path) -> None:
    single = variant(modality="audio", dtype="float32")
    build(path, names(3), (VISUAL, single))
    check(path, names(3), (VISUAL, single))
    cache = FeatureCache.open(path)
    values = cache.load()["audio/net.1"]
    assert values.dtype == torch.float32
    assert torch.equal(values[1], torch.from_numpy(truth(single, "audio/net.1", key_of(single, "w001"))))
