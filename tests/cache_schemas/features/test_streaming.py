"""Streams: every window once, in an order of its seed, within their memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from cache_schemas.features.memory import Memory
from cache_schemas.features.sources import LocalShards
from cache_schemas.features.streaming import plan_buffers
from hypothesis import given
from hypothesis import strategies as st

from cache_schemas.features import FeatureCache, FeatureCacheError
from cache_schemas.features.stored import Wanted
from tests.cache_schemas.features.small_cache import AUDIO, VISUAL, build, key_of, names, truth

WINDOWS = names(51)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """51 windows; the audio backbone came later, when ten windows lay elsewhere."""
    path = tmp_path_factory.mktemp("stream") / "c.zarr"
    build(path, names(11, 10), (VISUAL,))
    build(path, WINDOWS)
    return FeatureCache.open(path)


def epoch(cache: FeatureCache, batch: int, seed: int, memory_bytes: int) -> list[int]:
    """The order of one epoch, all values compared with what was written."""
    order: list[int] = []
    sizes = []
    for positions, values in cache.batches(batch, seed=seed, memory_bytes=memory_bytes):
        assert list(values) == list(cache.layers)
        for layer, found in values.items():
            of = cache.variant_of(layer)
            expected = np.stack([truth(of, layer, key_of(of, WINDOWS[i])) for i in positions])
            assert torch.equal(found, torch.from_numpy(expected))
        order += positions.tolist()
        sizes.append(len(positions))
    assert set(sizes[:-1]) <= {batch}, "only the last batch of an epoch is short"
    return order


@pytest.mark.parametrize("memory_bytes", [1, 20_000, 60_000, 10**7])
@pytest.mark.parametrize("batch", [1, 4, 7])
def test_an_epoch_is_every_window_once_in_an_order_of_its_seed(
    cache: FeatureCache, batch: int, memory_bytes: int
) -> None:
    order = epoch(cache, batch, 0, memory_bytes)
    assert sorted(order) == list(range(len(WINDOWS)))
    assert epoch(cache, batch, 0, memory_bytes) == order
    assert epoch(cache, batch, 1, memory_bytes) != order


def test_a_stream_selects(cache: FeatureCache) -> None:
    found = [(p, list(b)) for p, b in cache.batches(2, seed=0, split="val", layers=["visual/net.2"])]
    assert sorted(np.concatenate([p for p, _ in found])) == np.flatnonzero(cache.index["split"] == "val").tolist()
    assert all(layers == ["visual/net.2"] for _, layers in found)


def test_a_stream_that_is_left_stops(cache: FeatureCache) -> None:
    batches = cache.batches(2, seed=0, memory_bytes=1)
    next(batches)
    batches.close()  # type: ignore[attr-defined]


def test_what_is_fetched_at_once_fits_into_the_memory(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where a backbone's rows lie in another order than the first one's."""
    room, held, most = 40_000, dict[int, int](), 0
    fetch, release = LocalShards.fetch, Memory.release

    def counting(source: LocalShards, memory: Memory, wanted: list[Wanted]) -> None:
        nonlocal most
        fetch(source, memory, wanted)
        held[id(memory)] = sum(len(part.chunks) * part.geometry.chunk_bytes for part in wanted)
        most = max(most, sum(held.values()))

    def releasing(memory: Memory) -> None:
        held.pop(id(memory), None)
        release(memory)

    monkeypatch.setattr(LocalShards, "fetch", counting)
    monkeypatch.setattr(Memory, "release", releasing)
    assert len(epoch(cache, 4, 0, room)) == len(WINDOWS)
    assert 0 < most <= room


def test_a_damaged_chunk_ends_the_stream_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    build(path, names(21))
    file = path / AUDIO.array("audio/net.2") / "c.1.0.0"
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    with pytest.raises(FeatureCacheError, match=r"net\.2 \(.*c\.1\.0\.0\), chunk 0 is damaged"):
        list(FeatureCache.open(path).batches(4, seed=0))


@given(st.integers(1, 2000), st.integers(1, 700), st.sampled_from([1, 128, 512]), st.integers(0, 5))
def test_buffers_hold_every_position_once_and_blocks_stay_together(
    count: int, buffer_rows: int, block_rows: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.permutation(count)
    buffers = plan_buffers(np.arange(count), rows, rng, block_rows=block_rows, buffer_rows=buffer_rows)
    assert sorted(np.concatenate(buffers)) == list(range(count))
    assert all(len(buffer) == buffer_rows for buffer in buffers[:-1])
    for buffer in buffers:
        # Few blocks: whole ones, and at most one cut at either end.
        assert len(np.unique(rows[buffer] // block_rows)) <= buffer_rows // block_rows + 3
