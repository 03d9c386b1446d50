"""Verify, drop, merge, gc, statistics."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from cache_schemas.features import FeatureCache, FeatureCacheError, FeatureCacheWriter
from cache_schemas.features.upkeep import drop, layer_statistics, merge, verify
from tests.cache_schemas.features.small_cache import (
    AUDIO,
    VISUAL,
    attributes,
    build,
    check,
    index_of,
    key_of,
    names,
    variant,
)


def damage(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 0xFF
    file.unlink()
    file.write_bytes(content)


def shards(path: Path) -> list[Path]:
    return sorted([*path.rglob("c.*.0.0"), *path.rglob("key/c.*")])


def test_every_flipped_byte_is_found_and_never_read(path: Path) -> None:
    build(path, names(21))
    rng = np.random.default_rng(0)
    for _ in range(20):
        files = shards(path)
        file = files[rng.integers(len(files))]
        at = int(rng.integers(file.stat().st_size))
        damage(file, at)
        found = verify(path)
        assert found.problems, f"byte {at} of {file}"
        assert str(file) in found.problems[0]
        assert [number for _, number in found.damaged] == [int(file.name.split(".")[1])]
        if file.parent.name != "key":
            with pytest.raises(FeatureCacheError, match=re.escape(str(file))):
                check(path, names(21))
        damage(file, at)
    assert verify(path).problems == []


@pytest.mark.parametrize("keep", [0, 1, 100])
def test_a_shard_cut_short_or_gone_is_an_error_that_names_it(path: Path, keep: int) -> None:
    build(path, names(21))
    file = path / VISUAL.path / "net.2" / "c.1.0.0"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(FeatureCacheError, match=r"net\.2/c\.1\.0\.0 cannot be read.*cache verify --drop"):
        FeatureCache.open(path).load()
    assert any("c.1.0.0" in problem for problem in verify(path).problems)
    file.unlink()
    with pytest.raises(FeatureCacheError, match=r"c\.1\.0\.0 cannot be read"):
        FeatureCache.open(path).load()


def test_drop_forgets_what_is_damaged_and_nothing_else(path: Path) -> None:
    build(path, names(21))
    damage(path / VISUAL.path / "net.2" / "c.1.0.0", 3)
    drop(path, verify(path).damaged)
    with pytest.raises(FeatureCacheError, match="run `bmnas features` again"):
        FeatureCache.open(path)
    assert build(path, names(21)) == 8
    check(path, names(21))
    assert verify(path).problems == []


def test_verify_compares_the_index_with_the_rows(path: Path) -> None:
    build(path, names(21))
    (path / AUDIO.path / "key" / "c.2.0").unlink()
    assert any("points to rows" in problem for problem in verify(path).problems)


def test_verify_reads_the_schema(path: Path) -> None:
    build(path, names(3))
    metadata = path / AUDIO.path / "net.1" / "zarr.json"
    metadata.write_text(metadata.read_text().replace("float16", "float32"))
    assert any("net.1" in problem and "float32" in problem for problem in verify(path).problems)
    metadata.unlink()
    assert any("net.1/zarr.json is missing" in problem for problem in verify(path).problems)


def test_a_damaged_index_is_found(path: Path) -> None:
    build(path, names(21))
    column = next(path.glob("index/*/label/c.0"))
    damage(column, column.stat().st_size // 2)
    assert any("label" in problem for problem in verify(path).problems)
    with pytest.raises(FeatureCacheError, match="label"):
        _ = FeatureCache.open(path).index


def test_merge_joins_what_two_machines_computed(tmp_path: Path) -> None:
    one, two, whole = tmp_path / "one.zarr", tmp_path / "two.zarr", tmp_path / "whole.zarr"
    build(one, names(13, 8))
    build(two, names(12))
    assert merge(one, two) == {VISUAL.path: 8, AUDIO.path: 8}
    check(one, names(21))
    check(two, names(12))
    assert verify(one).problems == []
    assert build(one, names(21)) == 0
    assert merge(one, two) == {VISUAL.path: 0, AUDIO.path: 0}
    merge(whole, one)
    check(whole, names(21))


def test_merge_of_other_backbones_keeps_both(tmp_path: Path) -> None:
    one, two, other = tmp_path / "one.zarr", tmp_path / "two.zarr", variant("other")
    build(one, names(5))
    build(two, names(9), (other, AUDIO))
    with pytest.raises(FeatureCacheError, match=r"other parameters or backbones.*lie side by side"):
        merge(one, two)
    check(one, names(5))
    assert build(one, names(9), (VISUAL, other, AUDIO)) == 4
    check(one, names(9), (VISUAL, other, AUDIO))


def test_merge_refuses_a_subject_in_two_splits(tmp_path: Path) -> None:
    one, two = tmp_path / "one.zarr", tmp_path / "two.zarr"
    build(one, names(3))
    build(two, names(3, 3))
    for path, windows, split in ((one, names(3), "train"), (two, names(3, 3), "test")):
        _rewrite_index(path, windows, subject_id="s", split=split)
    with pytest.raises(FeatureCacheError, match="subject 's' is in two splits"):
        merge(one, two)


def test_a_person_in_two_official_splits_is_no_damage(tmp_path: Path) -> None:
    """The authors of a data set may put one person's clips into two splits; by subject nobody may be in two."""
    one, two = tmp_path / "one.zarr", tmp_path / "two.zarr"
    build(one, names(3))
    build(two, names(3, 3))
    for path, windows, split in ((one, names(3), "train"), (two, names(3, 3), "test")):
        _rewrite_index(path, windows, subject_id="s", split=split, split_kind="official")
    merge(one, two)
    assert verify(one).problems == []
    _rewrite_index(one, names(6), subject_id="s", split_kind="subject")
    assert any("subject 's' is in the splits" in problem for problem in verify(one).problems)


def _rewrite_index(path: Path, windows: list[str], **columns: str) -> None:
    rows = {of: [key_of(of, window) for window in windows] for of in (VISUAL, AUDIO)}
    FeatureCacheWriter(path).finish(index_of(windows).assign(**columns), rows, attributes([VISUAL, AUDIO]))


def test_statistics_are_those_of_the_values(path: Path) -> None:
    build(path, names(21))
    cache = FeatureCache.open(path)
    rows = {row["layer"]: row for row in layer_statistics(cache)}
    assert list(rows) == list(cache.layers)
    for layer, values in cache.load().items():
        x = values.double()
        assert rows[layer]["mean"] == pytest.approx(float(x.mean()))
        assert rows[layer]["std"] == pytest.approx(float(x.std(correction=0)))
        assert (rows[layer]["min"], rows[layer]["max"]) == (float(x.min()), float(x.max()))
        assert rows[layer]["dead"] == 0


def test_a_copy_is_a_cache(tmp_path: Path) -> None:
    """Nothing in it depends on where it lies."""
    build(tmp_path / "c.zarr", names(9))
    shutil.move(tmp_path / "c.zarr", tmp_path / "elsewhere")
    check(tmp_path / "elsewhere", names(9))
