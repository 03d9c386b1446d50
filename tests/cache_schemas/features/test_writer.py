"""Growing a cache: incremental, resumable, shared, and never changing what is there."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schemas.features import FeatureCache, FeatureCacheError, FeatureCacheWriter, Geometry, stage_piece
from cache_schemas.features.upkeep import summarise, verify
from tests.cache_schemas.features.small_cache import (
    AUDIO,
    GEOMETRY,
    LENGTH,
    SHARD,
    VISUAL,
    build,
    check,
    key_of,
    names,
    stage,
    truth,
    variant,
)

windows = st.lists(st.text("abcdef", min_size=1, max_size=3), unique=True, min_size=1, max_size=30)


def shard_files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("c.*.0.0")}


@settings(max_examples=5, deadline=None)
@given(windows, windows, st.integers(0, 12))
def test_a_cache_that_was_killed_and_grew_reads_like_a_new_one(
    tmp_path_factory: pytest.TempPathFactory, first: list[str], second: list[str], stop: int
) -> None:
    path = tmp_path_factory.mktemp("cache") / "c.zarr"
    build(path, first, stop_after=stop)
    build(path, second)
    check(path, second)
    both = sorted({*first, *second})
    build(path, both)
    check(path, both)
    assert verify(path).problems == []


def test_a_killed_run_is_resumed_and_its_rows_lie_as_if_nothing_had_happened(tmp_path: Path) -> None:
    killed, undisturbed = tmp_path / "killed.zarr", tmp_path / "undisturbed.zarr"
    done = build(killed, names(21), stop_after=4)
    assert done == 12
    assert build(killed, names(21)) == 2 * 21 - 12
    build(undisturbed, names(21))
    assert shard_files(killed) == shard_files(undisturbed)
    check(killed, names(21))
    assert not list(tmp_path.glob("*.staging/*/*/*"))


def test_counts_of_what_is_computed_again(path: Path) -> None:
    """More windows, fewer, the same again, a second backbone, another order: only what is new is computed."""
    second = variant("other")
    assert build(path, names(10)) == 20
    assert build(path, names(18)) == 16
    assert build(path, names(10)) == 0
    check(path, names(10))
    assert build(path, names(18)) == 0
    assert build(path, names(18), (VISUAL, second, AUDIO)) == 18
    check(path, names(18), (VISUAL, second, AUDIO))
    assert build(path, names(18)[::-1], (second, AUDIO)) == 0
    check(path, names(18)[::-1], (second, AUDIO))


def test_views_are_further_rows_of_the_same_windows(path: Path) -> None:
    assert build(path, names(5)) == 10
    assert build(path, names(5), views=3) == 20
    check(path, names(5))
    cache = FeatureCache.open(path)
    assert cache.views == 3
    assert cache.load(views=True)["visual/net.1"].shape == (3, 5, LENGTH, 3)
    assert build(path, names(5)) == 0
    check(path, names(5))


def test_files_that_exist_are_never_written_to(path: Path, tmp_path: Path) -> None:
    """DVC may have hard-linked them: growing a cache leaves every linked file's content alone."""
    build(path, names(11))
    linked = {}
    for i, file in enumerate(file for file in path.rglob("*") if file.is_file()):
        link = tmp_path / f"link{i}"
        os.link(file, link)
        link.chmod(0o444)
        linked[link] = link.read_bytes()
    before = shard_files(path)
    build(path, names(30))
    check(path, names(30))
    assert all(link.read_bytes() == content for link, content in linked.items())
    after = shard_files(path)
    assert {name: after[name] for name in before} == before
    assert len(after) > len(before)


def test_two_writers_at_once_write_every_row_once(path: Path) -> None:
    failures: list[BaseException] = []

    def run(wanted: list[str]) -> None:
        try:
            build(path, wanted)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(w,)) for w in (names(40), names(40, 20), names(60))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert verify(path).problems == []
    build(path, names(60))
    check(path, names(60))


def test_rows_count_only_with_their_keys(path: Path) -> None:
    """A run killed between the layers and the keys leaves files that the next one replaces."""
    build(path, names(8))
    for keys in path.rglob("key/c.*"):
        keys.unlink()
    next(path.rglob("net.1/c.0.0.0")).write_bytes(b"half a shard")
    assert build(path, names(8)) == 16
    check(path, names(8))
    assert verify(path).problems == []


def test_a_reader_sees_the_old_index_or_the_new_one(path: Path) -> None:
    build(path, names(5))
    build(path, names(30), stop_after=3)
    check(path, names(5))


def test_features_that_do_not_fit_are_refused(path: Path) -> None:
    FeatureCacheWriter(path).add_variant(VISUAL)
    good = {layer: np.zeros((1, LENGTH, channels)) for layer, channels in VISUAL.layers.items()}
    with pytest.raises(FeatureCacheError, match=r"visual/net.1: is \(2, 4, 3\), must be \(1, 4, 3\)"):
        stage_piece(path, VISUAL, [key_of(VISUAL, "a")], good | {"visual/net.1": np.zeros((2, LENGTH, 3))})


def test_a_full_disk_is_named_and_nothing_finished_is_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(path, names(5))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            FeatureCacheError, match=r"zarr\.json cannot be written|cannot be written: .*No space left.*make room"
        ):
            build(path, names(9))
    check(path, names(5))
    assert verify(path).problems == []
    assert build(path, names(9)) == 0, "the pieces that were staged are not computed again"
    check(path, names(9))


def test_runs_leave_no_lock_and_no_empty_folder(path: Path, tmp_path: Path) -> None:
    writer = FeatureCacheWriter(path, GEOMETRY)
    with writer.at_work():
        build(path, names(5))
        assert (tmp_path / "c.zarr.staging").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["c.zarr"]
    with writer.at_work():
        build(path, names(9), stop_after=1)
    assert {file.name for file in tmp_path.iterdir()} == {"c.zarr", "c.zarr.staging"}, "pieces wait there"


def test_geometry_is_no_part_of_the_name(path: Path) -> None:
    """A backbone that is there keeps the shards it has, whatever new ones get."""
    build(path, names(9))
    writer = FeatureCacheWriter(path, Geometry(shard_rows=32, chunk_rows=16))
    writer.add_variant(VISUAL)
    keys = [key_of(VISUAL, name) for name in names(20)]
    stage(path, VISUAL, keys[9:])
    writer.pack(VISUAL, keys, final=True)
    assert writer.stored(VISUAL).shard_rows == SHARD
    assert verify(path).problems == []
    build(path, names(20))
    check(path, names(20))


def test_versions_are_recorded_with_the_rows_and_in_no_name(path: Path) -> None:
    writer = FeatureCacheWriter(path, GEOMETRY)
    writer.add_variant(VISUAL)
    keys = [key_of(VISUAL, name) for name in names(12)]
    for part, torch_version in ((keys[:3], "2.7"), (keys[3:10], "2.8")):
        features = {layer: np.stack([truth(VISUAL, layer, key) for key in part]) for layer in VISUAL.layers}
        stage_piece(path, VISUAL, part, features, {"torch": torch_version})
    stage(path, VISUAL, keys[10:])
    writer.pack(VISUAL, keys, final=True)
    stored = writer.stored(VISUAL)
    found = stored.versions([stored.keys()[key] for key in keys])
    assert found == [{"torch": "2.7"}] * 3 + [{"torch": "2.8"}] * 7 + [{}] * 2
    assert summarise(path)[0].versions == [{"torch": "2.7"}, {"torch": "2.8"}]


@pytest.mark.parametrize(("content", "files"), [(b"", "*"), (b"{", "net.*"), (b"[]", "key")])
def test_a_zarr_json_lost_with_the_power_is_written_again(path: Path, content: bytes, files: str) -> None:
    """Of a backbone's group, of each of its arrays, of the index, of the root: all at once."""
    build(path, names(13), (VISUAL,))
    index = next(path.glob("index/*"))
    lost = list(path.glob(f"{VISUAL.path}/{files}/zarr.json"))
    if files == "*":
        lost += [path / part / "zarr.json" for part in ("", "visual", VISUAL.path, "index", index, index / "label")]
    for file in lost:
        file.write_bytes(content)
    assert build(path, names(13), (VISUAL,)) == 0
    check(path, names(13), (VISUAL,))
    assert verify(path).problems == []
    build(path, names(20), (VISUAL,))
    check(path, names(20), (VISUAL,))


def test_a_listing_may_be_old(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network's file system: a file that was just written is in no listing yet, but is there by its name."""
    build(path, names(4))
    writer = FeatureCacheWriter(path, GEOMETRY)
    keys = [key_of(VISUAL, name) for name in names(10)]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "glob", lambda *_: iter(()))
        missing = writer.missing(VISUAL, keys)
        assert missing == keys[4:]
        stage(path, VISUAL, missing)
        writer.staged(VISUAL, missing)
        writer.pack(VISUAL, keys, final=True)
        assert writer.missing(VISUAL, keys) == []
        build(path, names(10), (VISUAL,))
    check(path, names(10), (VISUAL,))
