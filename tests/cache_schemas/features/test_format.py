"""The format on disk stays what it is: caches written long ago, by each format that there ever was, are still good."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from cache_schemas.features import FeatureCache, FeatureCacheError, FeatureCacheWriter, migrate
from cache_schemas.features.layout import FORMATS, SCHEMA_VERSION, Geometry
from cache_schemas.features.upkeep import summarise, verify
from cache_schemas.files import digest
from tests.cache_schemas.features.small_cache import AUDIO, GEOMETRY, VISUAL, build, check, names

DATA = Path(__file__).parent / "data"
WINDOWS = names(7)


def test_there_is_a_cache_of_every_format() -> None:
    assert {folder.name for folder in DATA.iterdir()} == {f"format-{i + 1}" for i in range(SCHEMA_VERSION)}


def test_a_cache_of_today_s_format_is_read_and_grows(tmp_path: Path) -> None:
    frozen = DATA / f"format-{SCHEMA_VERSION}"
    assert verify(frozen).problems == []
    check(frozen, WINDOWS)
    assert FeatureCache.open(frozen).views == 2
    shutil.copytree(frozen, tmp_path / "c.zarr")
    assert build(tmp_path / "c.zarr", names(9), views=2) == 8
    check(tmp_path / "c.zarr", names(9))


def test_a_cache_written_today_is_the_frozen_one_byte_for_byte(tmp_path: Path) -> None:
    """What plain readers and DVC see of the features; `zarr.json` is Zarr's own business."""
    write_frozen(tmp_path / "c.zarr")
    for of in (VISUAL, AUDIO):
        for name in ("net.1", "net.2", "key"):
            for file in (DATA / f"format-{SCHEMA_VERSION}" / of.path / name).glob("c.*"):
                assert (tmp_path / "c.zarr" / of.path / name / file.name).read_bytes() == file.read_bytes()


def write_frozen(path: Path) -> None:
    """How every cache in data/ was written, by the code of its time (format 1: four windows)."""
    build(path, names(3, 4))
    build(path, WINDOWS, views=2)


def plain(cache: Path) -> tuple[list[str], dict[str, NDArray[Any]], dict[str, list[bytes]]]:
    """(clips, {layer: (N, V, C_in, L)}, {modality: keys in index order}) of formats 2 and 3, read by Zarr alone."""
    root: Any = zarr.open_group(cache, mode="r")
    index = root[f"index/{root.attrs['index']}"]
    layers, keys = {}, {}
    for modality in ("visual", "audio"):
        ((name, variant),) = root[modality].groups()
        rows = index[f"row/{modality}/{name}"][...]
        layers |= {layer: variant[layer.partition("/")[2]][...][rows] for layer in variant.attrs["layers"]}
        keys[modality] = [bytes(key) for key in variant["key"][...][rows.ravel()]]
    return [str(clip) for clip in index["clip_id"][...]], layers, keys


def copy_of(version: int, folder: Path) -> Path:
    shutil.copytree(DATA / f"format-{version}", folder / "c.zarr")
    return folder / "c.zarr"


def assert_migrated(path: Path, version: int) -> None:
    """To the bit, in the same order, under the same keys."""
    clips, layers, keys = plain(DATA / f"format-{version}")
    assert verify(path).problems == []
    cache = FeatureCache.open(path)
    loaded = cache.load(views=True)
    assert list(cache.index["clip_id"]) == clips == WINDOWS
    assert set(cache.index["split_kind"]) == {"subject"}
    assert loaded.keys() == layers.keys()
    for layer, values in loaded.items():
        assert np.array_equal(values.numpy(), layers[layer].transpose(1, 0, 3, 2))
    for variant in cache.variants:
        names_of = cache.stored(variant).names()
        assert [bytes.fromhex(names_of[row]) for row in cache.rows(variant).ravel().tolist()] == keys[variant.modality]


@pytest.mark.parametrize("version", FORMATS)
def test_an_earlier_format_is_named_and_migrated(tmp_path: Path, version: int) -> None:
    path = copy_of(version, tmp_path)
    for action in (FeatureCache.open, FeatureCacheWriter, verify):
        with pytest.raises(FeatureCacheError, match=rf"it says {version}\): run `bmnas cache migrate {path}`"):
            action(path)
    seen: list[int] = []
    kept = migrate.migrate(path, seen.append)
    assert sum(seen) == migrate.row_count(kept) > 0
    assert_migrated(path, version)
    assert {file.name for file in tmp_path.iterdir()} == {"c.zarr", kept.name}
    assert plain(kept)[0] == WINDOWS, "the old one is as it was"


@pytest.mark.parametrize("step", ["_copy_shard", "_copy_index", "replace"])
@pytest.mark.parametrize("call", [1, 2])
def test_a_killed_migration_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, call: int) -> None:
    path, calls, owner = copy_of(3, tmp_path), 0, Path if step == "replace" else migrate
    original = getattr(owner, step)

    def killed(*given: Any) -> Any:
        nonlocal calls
        if step != "replace" or given[0] in (path, path.with_name("c.zarr.format-4")):
            calls += 1
            if calls == call:
                raise KeyboardInterrupt
        return original(*given)

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, killed)
        if step == "_copy_index" and call == 2:
            pytest.skip("there is one index")
        with pytest.raises(KeyboardInterrupt):
            migrate.migrate(path)
    migrate.migrate(path)
    assert_migrated(path, 3)
    assert [summary.rows for summary in summarise(path)] == [14, 14], "nothing twice"


def test_a_damaged_chunk_of_format_3_is_not_migrated(tmp_path: Path) -> None:
    path = copy_of(3, tmp_path)
    file = next(path.glob("visual/*/net.2/c.0.0.0"))
    content = bytearray(file.read_bytes())
    content[700] ^= 4
    file.write_bytes(content)
    with pytest.raises(FeatureCacheError, match=r"net\.2, rows from 0 on cannot be read: .*checksum"):
        migrate.migrate(path)
    assert path.exists()


def test_what_cannot_be_migrated_is_said(tmp_path: Path) -> None:
    first = tmp_path / "first.zarr"
    shutil.copytree(DATA / "format-1", first)
    for action in (FeatureCache.open, FeatureCacheWriter):
        with pytest.raises(FeatureCacheError, match=r"\(it says 1\): move it away, and run `bmnas features` again"):
            action(first)
    with pytest.raises(FeatureCacheError, match="version 1 cannot be migrated, only 2, 3"):
        migrate.migrate(first)
    with pytest.raises(FeatureCacheError, match=r"none\.zarr cannot be read"):
        migrate.migrate(tmp_path / "none.zarr")
    path = copy_of(3, tmp_path)
    path.with_name("c.zarr.format-3").mkdir()
    with pytest.raises(FeatureCacheError, match="format-3 is in the way"):
        migrate.migrate(path)


def test_names_of_rows_are_those_of_format_3() -> None:
    """A migrated cache's rows keep their keys, which begin with the backbone's name: nothing is computed again."""
    group = next((DATA / "format-3" / "visual").glob("*/"))
    attributes = dict(zarr.open_group(group, mode="r").attrs) | {"shard_rows": 4096, "chunk_rows": 128}
    assert VISUAL.path == f"visual/net-{digest(attributes)[:8]}"
    assert Geometry().shard_rows == 4096
    assert Geometry() != GEOMETRY


def test_the_documented_way_to_read_text(tmp_path: Path) -> None:
    """The lines of docs/cache.md, run as they stand there."""
    text = (Path(__file__).parents[3] / "docs" / "cache.md").read_text()
    code = compile(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], "docs/cache.md", "exec")
    build(tmp_path / "work" / "features.zarr", WINDOWS)
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        exec(code, found)  # noqa: S102 - our own text
    assert found["clips"] == WINDOWS
    assert list(found["features"]) == [*VISUAL.layers, *AUDIO.layers]
    for layer, values in FeatureCache.open(tmp_path / "work" / "features.zarr").load().items():
        assert np.array_equal(found["features"][layer], values.numpy())
