"""What `gc` takes, and what it leaves: runs at work, young indexes and those who read them."""

import os
import time
from pathlib import Path

import pytest

from cache_schemas.features import FeatureCache, FeatureCacheError, FeatureCacheWriter, garbage
from cache_schemas.features.garbage import STALE_SECONDS, collect_garbage
from cache_schemas.features.staging import staging_folder
from cache_schemas.features.stored import size_of
from cache_schemas.features.upkeep import summarise, verify
from tests.cache_schemas.features.small_cache import (
    AUDIO,
    GEOMETRY,
    VISUAL,
    attributes,
    build,
    check,
    index_of,
    key_of,
    names,
    stage,
    variant,
)

HOUR = 3600.0


def grow_old(path: Path, seconds: float) -> None:
    """As if every index had been written so long ago."""
    for file in path.glob("index/*/zarr.json"):
        os.utime(file, (time.time() - seconds,) * 2)


def test_it_gives_back_what_no_index_uses(path: Path) -> None:
    other = variant("other")
    build(path, names(30), (VISUAL, other))
    build(path, names(50), (VISUAL, AUDIO))
    build(path, names(12, 5))
    build(path, [*names(12, 5), "z"])
    before = size_of(str(path))
    assert collect_garbage(path, older_than_seconds=0) == before - size_of(str(path)) > 0
    assert not (path / other.path).exists()
    check(path, [*names(12, 5), "z"])
    assert verify(path).problems == []
    assert {s.variant.name: (s.rows, s.used, s.shards) for s in summarise(path)} == {"net": (13, 13, 2)}
    assert collect_garbage(path, older_than_seconds=0) == 0
    assert build(path, [*names(12, 5), "z"]) == 0
    assert build(path, names(30)) == 2 * (30 - 12)
    check(path, names(30))


def test_a_row_number_never_comes_back(path: Path) -> None:
    """A reader that still has an old index must meet an error, not another window's features."""
    build(path, names(10))
    old = FeatureCache.open(path)
    rows, _, _ = old.rows(VISUAL), old.rows(AUDIO), old.index
    build(path, names(3, 20))
    collect_garbage(path, older_than_seconds=0)
    build(path, names(12, 40))
    assert not set(FeatureCache.open(path).rows(VISUAL).ravel()) & set(rows.ravel())
    with pytest.raises(FeatureCacheError, match=r"c\.0\.0\.0 cannot be read: it is missing"):
        old.load()


def test_an_open_reader_goes_on_until_its_index_is_old(path: Path) -> None:
    build(path, names(10))
    old = FeatureCache.open(path)
    build(path, names(30, 5))
    assert old.load()["visual/net.1"].shape[0] == 10, "a new index leaves the old one alone"
    grow_old(path, HOUR / 2)
    collect_garbage(path, older_than_seconds=HOUR)
    assert FeatureCache.open(path, old.index_name).load()["visual/net.1"].shape[0] == 10
    check(path, names(30, 5))
    grow_old(path, 2 * HOUR)
    assert collect_garbage(path, older_than_seconds=HOUR) > 0
    with pytest.raises(FeatureCacheError, match="is missing"):
        FeatureCache.open(path, old.index_name)
    check(path, names(30, 5))
    assert verify(path).problems == []


def test_a_run_at_work_loses_nothing(path: Path) -> None:
    """Neither what it has packed nor what it has staged, though no index names them yet; a dead run holds nothing."""
    other = variant("other")
    build(path, names(5))
    writer = FeatureCacheWriter(path, GEOMETRY)
    keys = {of: [key_of(of, name) for name in names(30)] for of in (VISUAL, other)}
    with writer.at_work():
        for of, wanted in keys.items():
            writer.add_variant(of)
            stage(path, of, writer.missing(of, wanted))
            writer.pack(of, wanted, final=of is VISUAL)
        with pytest.raises(FeatureCacheError, match="a run is at work on it: wait for its end"):
            collect_garbage(path, older_than_seconds=0)
        writer.pack(other, keys[other], final=True)
        writer.finish(index_of(names(30)), keys, attributes(list(keys)))
    check(path, names(30), (VISUAL, other))
    (staging_folder(path) / "visual").mkdir(parents=True)
    (staging_folder(path) / "0123.run").touch()  # of a run that was killed
    collect_garbage(path, older_than_seconds=0)
    check(path, names(30), (VISUAL, other))
    assert not staging_folder(path).exists()


@pytest.mark.parametrize("step", ["finish", "remove_folder", "remove_shard"])
def test_killed_halfway_it_leaves_no_damage(path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    other = variant("other")
    build(path, names(30), (VISUAL, other))
    build(path, names(12, 5), (VISUAL, AUDIO))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FeatureCacheWriter if step == "finish" else garbage, step, killed)
        with pytest.raises(KeyboardInterrupt):
            collect_garbage(path, older_than_seconds=0)
    assert verify(path).problems == []
    check(path, names(12, 5), (VISUAL, AUDIO))
    collect_garbage(path, older_than_seconds=0)
    assert verify(path).problems == []
    check(path, names(12, 5), (VISUAL, AUDIO))
    assert {s.variant.path: (s.rows, s.used) for s in summarise(path)} == {v.path: (12, 12) for v in (VISUAL, AUDIO)}
    assert build(path, names(12, 5), (VISUAL, AUDIO)) == 0


def test_shards_whose_keys_never_came_go(path: Path) -> None:
    build(path, names(20))
    build(path, names(8))
    for keys in path.rglob("key/c.1.0"):
        keys.unlink()
    collect_garbage(path, older_than_seconds=0)
    assert {file.name for file in path.rglob("net.*/c.*")} == {"c.0.0.0"}
    check(path, names(8))


def test_a_cache_whose_keys_are_lost_keeps_its_features(path: Path) -> None:
    """They may be restored: gc takes nothing that the index points to."""
    build(path, names(20))
    keys = next(path.glob("visual/*/key/c.1.0"))
    whole = keys.read_bytes()
    keys.unlink()
    with pytest.raises(FeatureCacheError, match=r"keys of rows that the index names are missing.*dvc checkout"):
        collect_garbage(path, older_than_seconds=0)
    keys.write_bytes(whole)
    check(path, names(20))
    assert verify(path).problems == []


def test_temporary_files_go_but_not_those_of_a_worker(tmp_path: Path) -> None:
    path = tmp_path / "features.zarr"
    build(path, names(10))
    staged = staging_folder(path) / VISUAL.path
    staged.mkdir(parents=True, exist_ok=True)
    gone = [
        tmp_path / ".features.zarr.abc.tmp",  # a root that was never finished
        path / VISUAL.path / ".zarr.json.abc.tmp",
        path / VISUAL.path / "zarr.0123456789abcdef.partial",
        staged / ".old.npz.abc.tmp",
    ]
    kept = [staged / ".young.npz.abc.tmp", tmp_path / ".another.zarr.abc.tmp"]
    for file in (*gone, *kept):
        file.write_bytes(b"half")
    old = gone[-1].stat().st_mtime - STALE_SECONDS - 1
    os.utime(gone[-1], (old, old))
    collect_garbage(path, older_than_seconds=0)
    assert not [file for file in gone if file.exists()]
    assert all(file.exists() for file in kept)
    check(path, names(10))
