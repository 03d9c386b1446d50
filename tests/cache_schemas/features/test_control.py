"""The second index, of random weights: it goes with the first one through all that is done to a cache."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cache_schemas.content import CacheContent, ControlContent, cache_identity
from cache_schemas.features import Control, FeatureCache, FeatureCacheWriter, VariantAttributes
from cache_schemas.features.garbage import collect_garbage
from cache_schemas.features.upkeep import drop, merge, summarise, verify
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
    truth,
)
from tests.cache_schemas.features.test_garbage import HOUR, grow_old

RANDOM = tuple(
    VariantAttributes(**of.model_dump() | {"backbone": {"name": of.name, "weights_sha256": "0"}})
    for of in (VISUAL, AUDIO)
)


def keys_of(windows: list[str], variants: tuple[VariantAttributes, ...]) -> dict[VariantAttributes, list[str]]:
    return {of: [key_of(of, window) for window in windows] for of in variants}


def add_control(path: Path, windows: list[str]) -> None:
    """To a cache that `build` has made of these windows."""
    writer = FeatureCacheWriter(path, GEOMETRY)
    for of, keys in keys_of(windows, RANDOM).items():
        writer.add_variant(of)
        if missing := writer.missing(of, keys):
            stage(path, of, missing)
        writer.pack(of, keys, final=True)
    control = Control(keys_of(windows, RANDOM), attributes(list(RANDOM)))
    main = keys_of(windows, (VISUAL, AUDIO))
    writer.finish(index_of(windows), main, attributes([VISUAL, AUDIO]), control=control)


def check_both(path: Path, windows: list[str]) -> None:
    """Both indexes hold these windows with their true values, and nothing is wrong."""
    check(path, windows)
    control = FeatureCache.open(path).control()
    assert control
    assert list(control.index["clip_id"]) == windows
    assert control.layers == FeatureCache.open(path).layers
    loaded = control.load()
    for of in RANDOM:
        for layer in of.layers:
            wanted = np.stack([truth(of, layer, key_of(of, window)) for window in windows])
            assert torch.equal(loaded[layer], torch.from_numpy(wanted))
    assert verify(path).problems == []


def test_the_first_index_is_what_it_was(path: Path) -> None:
    build(path, names(21))
    before = FeatureCache.open(path)
    content, identity = CacheContent.of(before), cache_identity(before)
    assert before.control() is None
    assert "run `bmnas features`" in ControlContent.of(before).reason
    add_control(path, names(21))
    after = FeatureCache.open(path)
    assert (after.index_name, cache_identity(after)) == (before.index_name, identity)
    assert CacheContent.of(after) == content
    control = after.control()
    assert control
    assert ControlContent.of(after).identity == cache_identity(control) != identity
    assert control.control() is None
    check_both(path, names(21))
    assert {s.variant: (s.rows, s.used) for s in summarise(path)} == dict.fromkeys((VISUAL, AUDIO, *RANDOM), (21, 21))


def test_a_cache_from_before_controls_is_read_and_written_as_it_was(path: Path) -> None:
    build(path, names(5))
    root = json.loads((path / "zarr.json").read_text())["attributes"]
    assert root.keys() == {"schema_name", "schema_version", "index"}
    check(path, names(5))


def test_a_run_without_news_keeps_it_and_other_windows_have_none(path: Path) -> None:
    build(path, names(9))
    add_control(path, names(9))
    assert build(path, names(9)) == 0
    check_both(path, names(9))
    build(path, names(12))
    assert FeatureCache.open(path).control() is None
    add_control(path, names(12))
    check_both(path, names(12))


def test_why_there_is_none_is_kept(path: Path) -> None:
    build(path, names(9))
    writer = FeatureCacheWriter(path, GEOMETRY)
    main = keys_of(names(9), (VISUAL, AUDIO))
    writer.finish(index_of(names(9)), main, attributes([VISUAL, AUDIO]), control="it has none")
    collect_garbage(path, older_than_seconds=0)
    build(path, names(9))
    assert FeatureCache.open(path).no_control == "it has none"


@pytest.mark.parametrize("older_than_seconds", [0, 2 * HOUR])
def test_garbage_collection_keeps_it(path: Path, older_than_seconds: float) -> None:
    """Packed into other shards with the first index, and without the windows that neither has any more."""
    build(path, names(30))
    add_control(path, names(30))
    build(path, names(12, 5))
    add_control(path, names(12, 5))
    grow_old(path, HOUR)
    collect_garbage(path, older_than_seconds=older_than_seconds)
    check_both(path, names(12, 5))
    rows = 12 if older_than_seconds == 0 else 30
    assert {s.variant: (s.rows, s.used) for s in summarise(path)} == dict.fromkeys((VISUAL, AUDIO, *RANDOM), (rows, 12))
    assert len(list(path.glob("index/*/zarr.json"))) == (2 if older_than_seconds == 0 else 4)


def test_one_that_shares_its_rows_with_the_first_index(path: Path) -> None:
    """Backbones that have random weights anyway, and views: the control is the first view of each window."""
    build(path, names(9), views=2)
    writer, windows = FeatureCacheWriter(path, GEOMETRY), names(9)
    main = {of: [key_of(of, window, view) for window in windows for view in (0, 1)] for of in (VISUAL, AUDIO)}
    control = Control(keys_of(windows, (VISUAL, AUDIO)), attributes([VISUAL, AUDIO]))
    writer.finish(index_of(windows), main, attributes([VISUAL, AUDIO], views=2), control=control)
    grow_old(path, HOUR)
    collect_garbage(path, older_than_seconds=0)
    check(path, windows)
    found = FeatureCache.open(path).control()
    assert found
    assert found.views == 1
    for layer, rows in FeatureCache.open(path).load().items():
        assert torch.equal(found.load()[layer], rows)
    assert verify(path).problems == []


def test_two_caches_with_one_merge_into_one_with_it(path: Path, tmp_path: Path) -> None:
    other, bare = tmp_path / "other.zarr", tmp_path / "bare.zarr"
    for where, windows in ((path, names(9)), (other, names(8, 9))):
        build(where, windows)
        add_control(where, windows)
    build(bare, names(5, 17))
    merge(path, other)
    check_both(path, names(17))
    merge(path, bare)
    assert FeatureCache.open(path).control() is None
    assert "merged" in FeatureCache.open(path).no_control
    check(path, names(22))


def test_damage_to_it_is_found_and_forgotten(path: Path) -> None:
    build(path, names(9))
    add_control(path, names(9))
    control = FeatureCache.open(path).control()
    assert control
    column = path / "index" / control.index_name / "label" / "c.0"
    whole = column.read_bytes()
    column.write_bytes(whole[:-1])
    assert any(control.index_name in problem for problem in verify(path).problems)
    column.write_bytes(whole)
    shard = path / RANDOM[0].path / "net.1" / "c.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-1])
    found = verify(path)
    assert found.damaged == [(RANDOM[0], 0)]
    drop(path, found.damaged)
    build(path, names(9))
    add_control(path, names(9))
    check_both(path, names(9))


def test_one_of_other_windows_is_a_problem(path: Path) -> None:
    build(path, names(9))
    add_control(path, names(9))
    root = json.loads((path / "zarr.json").read_text())
    build(path, names(7))
    current = FeatureCache.open(path).index_name
    root["attributes"]["index"] = current
    (path / "zarr.json").write_text(json.dumps(root))
    assert any("its control is of other windows" in problem for problem in verify(path).problems)
