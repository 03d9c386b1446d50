"""Loading: without a copy where rows lie side by side, gathered elsewhere, the same values either way."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cache_schemas.features.gather import Gather, Place
from cache_schemas.features.loading import regular_rows
from cache_schemas.features.sources import LocalShards
from hypothesis import given
from hypothesis import strategies as st

from cache_schemas.features import FeatureCache, FeatureCacheError, memory
from tests.cache_schemas.features.small_cache import AUDIO, VISUAL, build, check, key_of, names, truth

LAYER = "visual/net.2"  # its shards are whole pages


def mapped(path: Path) -> int:
    """Bytes of the cache's shards that this process has mapped."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(path) in line and ".0.0" in line:
            start, _, end = line.split()[0].partition("-")
            total += int(end, 16) - int(start, 16)
    return total


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux says what is mapped")
@pytest.mark.parametrize("views", [False, True])
def test_rows_side_by_side_are_the_files_own_pages(tmp_path: Path, views: bool) -> None:
    path = tmp_path / "c.zarr"
    build(path, names(21), views=2)
    cache = FeatureCache.open(path)
    assert mapped(path) == 0
    loaded = cache.load(views=views)
    assert mapped(path) >= 2 * sum(f.stat().st_size // 4096 * 4096 for f in (path / VISUAL.array(LAYER)).glob("c.*"))
    assert loaded[LAYER].shape == ((2, 21, 64, 4) if views else (21, 64, 4))
    del loaded
    assert mapped(path) == 0, "given back with the last tensor"


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("grown", [False, True])
def test_writing_to_a_loaded_tensor_changes_nothing_else(tmp_path: Path, views: int, grown: bool) -> None:
    path = tmp_path / "c.zarr"
    if grown:
        build(path, names(9, 10), views=views)
    build(path, names(21), views=views)
    before = {file: file.read_bytes() for file in path.rglob("c.*")}
    cache = FeatureCache.open(path)
    loaded = cache.load(views=True)
    for values in loaded.values():
        values[:] = 7
    assert all((values == 7).all() for values in loaded.batch(torch.arange(21)).values())
    check(path, names(21))
    assert torch.equal(cache.read([3])[LAYER], torch.from_numpy(truth(VISUAL, LAYER, key_of(VISUAL, "w003"))[None]))
    assert all(file.read_bytes() == content for file, content in before.items())


@pytest.mark.parametrize("grown", [False, True])
@pytest.mark.parametrize("views", [False, True])
def test_batches_of_loaded_layers_are_their_rows(tmp_path: Path, grown: bool, views: bool) -> None:
    path = tmp_path / "c.zarr"
    if grown:
        build(path, names(9, 10), views=2)
    build(path, names(21), views=2)
    loaded = FeatureCache.open(path).load(views=views)
    rows = torch.tensor([4, 20, 0, 4])
    for layer, values in loaded.batch(rows).items():
        assert torch.equal(values, loaded[layer].index_select(1 if views else 0, rows))


def test_an_empty_selection_has_the_layers_shapes(tmp_path: Path) -> None:
    build(tmp_path / "c.zarr", ["w000"])  # in one split only
    cache = FeatureCache.open(tmp_path / "c.zarr")
    empty = next(s for s in ("train", "val") if s not in set(cache.index["split"]))
    assert cache.load(empty)[LAYER].shape == (0, 64, 4)
    assert cache.read([])[LAYER].shape == (0, 64, 4)
    assert list(cache.batches(4, seed=0, split=empty)) == []


def test_where_files_cannot_be_mapped_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems without mapping to an address: the same values, the same errors."""
    monkeypatch.setattr(memory, "MAPS", False)
    monkeypatch.setattr(LocalShards, "lasting", False)
    path = tmp_path / "c.zarr"
    build(path, names(9, 10))
    build(path, names(21))
    check(path, names(21))
    cache = FeatureCache.open(path)
    order = [i for positions, _ in cache.batches(4, seed=0, memory_bytes=10_000) for i in positions]
    assert sorted(order) == list(range(21))
    file = path / VISUAL.array(LAYER) / "c.0.0.0"
    file.write_bytes(file.read_bytes()[:-1])
    for action in (cache.load, lambda: cache.read(range(21)), lambda: list(cache.batches(4, seed=0))):
        with pytest.raises(FeatureCacheError, match=r"net\.2 \(.*c\.0\.0\.0\) is cut off"):
            action()


@given(st.integers(0, 9), st.integers(0, 5), st.integers(1, 3), st.integers(1, 4))
def test_regular_rows_are_recognised(first: int, count: int, views: int, step: int) -> None:
    rows = first + step * np.arange(count)[:, None] + np.arange(views)
    found = regular_rows(rows)
    if count == 0 or (count > 1 and step < views):
        assert found is None
    else:
        assert found == (first, step if count > 1 else views)
    if count > 2:
        rows[-1] += 1
        assert regular_rows(rows) is None


@given(
    st.data(), st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["float16", "float32"])), min_size=1, max_size=4)
)
def test_a_gather_takes_the_rows_of_every_layer(data: Any, layers: list[tuple[int, str]]) -> None:
    rng = np.random.default_rng(0)
    values, places, size = {}, {}, 0
    for i, (channels, dtype) in enumerate(layers):
        x = rng.standard_normal((10, channels, 1)).astype(dtype)
        size = -(-size // 4) * 4
        places[f"l{i}"] = Place(size, x[0].nbytes, (channels, 1), dtype)
        values[f"l{i}"], size = x, size + x.nbytes
    buffer = np.zeros(size, np.uint8)
    for name, x in values.items():
        buffer[places[name].start : places[name].start + x.nbytes] = np.frombuffer(x.tobytes(), np.uint8)
    columns = {name: data.draw(st.integers(0, 1)) for name in places}
    rows = np.array(data.draw(st.lists(st.tuples(*[st.integers(0, 9)] * 2), max_size=5)), np.int64).reshape(-1, 2)
    for name, found in Gather(torch.from_numpy(buffer), places, columns)(torch.from_numpy(rows)).items():
        assert np.array_equal(found.numpy(), values[name][rows[:, columns[name]]])


def test_a_reader_does_not_keep_files_open(tmp_path: Path) -> None:
    build(tmp_path / "c.zarr", names(21), (VISUAL, AUDIO))
    cache = FeatureCache.open(tmp_path / "c.zarr")
    loaded = cache.load()
    cache.read([1, 2])
    open_files = [Path(f"/proc/self/fd/{f.name}") for f in Path("/proc/self/fd").iterdir()]
    assert not any("c.zarr" in str(f.readlink()) for f in open_files if f.is_symlink())
    assert len(loaded) == 4
