"""The format on disk stays what it is: a cache written long ago, and a reader that knows only the documentation."""

import shutil
from pathlib import Path

import crc32c
import numpy as np
import pytest
import torch
import zarr

from cache_schemas.features import FeatureCache
from cache_schemas.features.upkeep import verify
from tests.cache_schemas.features import frozen_reader
from tests.cache_schemas.features.small_cache import AUDIO, VISUAL, build, key_of, names, truth

FROZEN = Path(__file__).parent / "data" / "format-3"
WINDOWS = names(13)


def compare(labels: np.ndarray, layers: dict[str, np.ndarray], views: int) -> None:
    assert labels.tolist() == [0] * len(WINDOWS)
    for of in (VISUAL, AUDIO):
        for layer in of.layers:
            expected = [[truth(of, layer, key_of(of, w, v)) for w in WINDOWS] for v in range(views)]
            assert np.array_equal(layers[layer], np.array(expected))


def test_the_frozen_reader_reads_the_frozen_cache() -> None:
    compare(*frozen_reader.read(FROZEN), views=2)


def test_today_s_reader_reads_the_frozen_cache() -> None:
    assert verify(FROZEN).problems == []
    cache = FeatureCache.open(FROZEN)
    layers = {layer: values.numpy() for layer, values in cache.load(views=True).items()}
    compare(cache.index["label"].to_numpy(), layers, views=2)
    assert list(cache.index["clip_id"]) == WINDOWS
    assert torch.equal(cache.read([7], view=1)["audio/net.2"][0], torch.from_numpy(layers["audio/net.2"][1, 7]))


def test_the_frozen_reader_reads_a_cache_of_today(tmp_path: Path) -> None:
    build(tmp_path / "c.zarr", WINDOWS[5:])
    build(tmp_path / "c.zarr", WINDOWS)
    compare(*frozen_reader.read(tmp_path / "c.zarr"), views=1)


def test_the_frozen_reader_finds_damage(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    shutil.copytree(FROZEN, path)
    file = path / VISUAL.array("visual/net.2") / "c.0.0.0"
    content = bytearray(file.read_bytes())
    content[700] ^= 4
    file.write_bytes(content)
    with pytest.raises(AssertionError, match=r"visual/net\.2"):
        frozen_reader.read(path)


def test_a_cache_written_today_is_the_frozen_one_byte_for_byte(tmp_path: Path) -> None:
    """What plain readers and DVC see of the features; `zarr.json` is Zarr's own business."""
    build(tmp_path / "c.zarr", WINDOWS, views=2)
    for array in (of.array(name) for of in (VISUAL, AUDIO) for name in (*of.layers, "x/key", "x/checksum")):
        for file in (FROZEN / array).glob("c.*"):
            assert (tmp_path / "c.zarr" / array / file.name).read_bytes() == file.read_bytes()


def test_the_documented_check_of_a_plain_zarr_reader_finds_damage(tmp_path: Path) -> None:
    """The lines of docs/cache.md, run as they stand there."""
    text = (Path(__file__).parents[3] / "docs" / "cache.md").read_text()
    check = compile(text.split("```python\n")[1].split("```")[0], "docs/cache.md", "exec")
    path = tmp_path / "c.zarr"
    build(path, WINDOWS[:5])
    build(path, WINDOWS)
    for of in (VISUAL, AUDIO):
        exec(check, {"zarr": zarr, "crc32c": crc32c, "variant": path / of.path})  # noqa: S102 - our own text
    file = path / VISUAL.array("visual/net.2") / "c.1.0.0"
    content = bytearray(file.read_bytes())
    content[700] ^= 4
    file.write_bytes(content)
    with pytest.raises(AssertionError, match=r"visual/net\.2"):
        exec(check, {"zarr": zarr, "crc32c": crc32c, "variant": path / VISUAL.path})  # noqa: S102
