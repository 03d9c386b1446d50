"""A cache on a server reads like the one on disk: fsspec's memory file system, and S3 (moto's server)."""

import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from cache_schemas.features import FeatureCache, FeatureCacheError
from cache_schemas.features.upkeep import layer_statistics, merge, summarise, verify
from nas.config import SearchConfig
from nas.searching import search
from pipeline.cli import app
from tests.cache_schemas.features.small_cache import AUDIO, VISUAL, build, check, names
from tests.s3 import s3_server

WINDOWS = names(41)
SHARD = f"{VISUAL.path}/net.2/c.1.0.0"


@dataclass(frozen=True)
class Remote:
    """The same cache on disk and at a URL."""

    local: Path
    url: str
    files: Any

    def open(self) -> FeatureCache:
        return FeatureCache.open(self.url)

    def replace(self, name: str, content: bytes | None) -> bytes:
        """What the object held before it became `content`, or went away."""
        path = f"{self.url}/{name}"
        before: bytes = self.files.cat_file(path)
        if content is None:
            self.files.rm(path)
        else:
            self.files.pipe_file(path, content)
        return before


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with s3_server():
        yield


@pytest.fixture(scope="module", params=["memory", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    if request.param == "s3":
        request.getfixturevalue("server")
    local = tmp_path_factory.mktemp("remote") / "c.zarr"
    build(local, names(13, 20))
    build(local, WINDOWS, views=2)
    files = fsspec.filesystem(request.param)
    files.mkdir("bucket")
    files.put(str(local), "bucket/c.zarr", recursive=True)
    yield Remote(local, f"{request.param}://bucket/c.zarr", files)
    files.rm("bucket", recursive=True)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_everything_reads_the_same(remote: Remote) -> None:
    check(remote.url, WINDOWS)
    there, here = remote.open(), FeatureCache.open(remote.local)
    pd.testing.assert_frame_equal(there.index, here.index)
    assert (there.layers, there.attributes) == (here.layers, here.attributes)
    assert same(there.load("val"), here.load("val"))
    assert same(there.load(layers=["audio/net.2"], views=True), here.load(layers=["audio/net.2"], views=True))
    positions = np.random.default_rng(0).integers(0, len(WINDOWS), 30)
    assert same(there.read(positions, views=[1]), here.read(positions, views=[1]))
    assert summarise(remote.url) == summarise(remote.local)
    assert verify(remote.url) == verify(remote.local)
    assert list(layer_statistics(there)) == list(layer_statistics(here))


def test_the_commands_read_it(remote: Remote) -> None:
    """`bmnas cache info s3://...` and its like; what changes a cache wants a folder."""
    runner = CliRunner()
    for command, told in (("info", "41 windows"), ("verify", ""), ("stats", "net-")):
        result = runner.invoke(app, ["cache", command, remote.url])
        assert result.exit_code == 0, result.output
        assert told in result.stdout
    refused = runner.invoke(app, ["cache", "verify", "--drop", remote.url])
    assert refused.exit_code == 2
    assert "give a folder" in " ".join(refused.output.replace("│", " ").split())


def test_it_can_be_merged_into_a_folder(remote: Remote, tmp_path: Path) -> None:
    assert merge(tmp_path / "c.zarr", remote.url) == {VISUAL.path: 82, AUDIO.path: 82}
    check(tmp_path / "c.zarr", WINDOWS)


def test_the_search_finds_the_same(remote: Remote) -> None:
    def result(path: Path | str) -> Any:
        cache = FeatureCache.open(path)
        labels = (cache.index["category"] == "FVFA").to_numpy(np.int64)
        config = SearchConfig(channels=8, epochs=2, warmup_epochs=1, batch_size=8, min_steps_per_epoch=2, samples=2)
        return search(cache.load(), labels, list(cache.index["split"]), config)

    assert result(remote.url) == result(remote.local)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda whole: whole[:3] + bytes([whole[3] ^ 1]) + whole[4:], "checksum"),
        (lambda whole: whole[:10], "cannot be read"),
        (lambda _: b"", "cannot be read"),
        (lambda _: None, "it is missing"),
    ],
    ids=["flipped", "short", "empty", "missing"],
)
def test_a_damaged_object_is_an_error_that_names_it(remote: Remote, content: Any, message: str) -> None:
    whole = remote.replace(SHARD, (remote.local / SHARD).read_bytes())
    remote.replace(SHARD, content(whole))
    try:
        with pytest.raises(FeatureCacheError, match=rf"net\.2/c\.1\.0\.0.*{message}.*cache verify --drop"):
            remote.open().load()
    finally:
        remote.files.pipe_file(f"{remote.url}/{SHARD}", whole)
    check(remote.url, WINDOWS)


def test_no_cache_there_is_said(remote: Remote) -> None:
    for name in ("bucket/none.zarr", "nobucket/c.zarr", "bucket"):
        url = f"{remote.url.partition('://')[0]}://{name}"
        with pytest.raises(FeatureCacheError, match=f"{url}: no feature cache: run `bmnas features` first"):
            FeatureCache.open(url)


def test_s3_is_asked_once_a_whole_shard(server: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Counted by the server; no other backbone is asked for."""
    build(tmp_path / "c.zarr", names(16))
    files = fsspec.filesystem("s3")
    files.mkdir("counted")
    files.put(str(tmp_path / "c.zarr"), "counted/c.zarr", recursive=True)
    cache = FeatureCache.open("s3://counted/c.zarr")
    assert len(cache.index) == len(cache.rows(VISUAL)) == len(cache.stored(VISUAL)) == 16
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="werkzeug"):
        cache.load(layers=VISUAL.layers)
    requests = [record.getMessage() for record in caplog.records if record.name == "werkzeug"]
    of_shards = [request for request in requests if re.search(r"GET .*/net\.\d/c\.\d+\.0\.0 HTTP", request)]
    assert len(of_shards) == 4
    assert not [request for request in requests if AUDIO.path in request]


def test_a_server_out_of_reach_is_said_with_what_to_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build(tmp_path / "c.zarr", names(3))
    files = fsspec.filesystem("memory")
    files.put(str(tmp_path / "c.zarr"), "far/c.zarr", recursive=True)

    def unreachable(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(type(files), "cat_file", unreachable)
    with pytest.raises(FeatureCacheError, match=r"memory://.* cannot be read: no route.*AWS_ENDPOINT_URL"):
        FeatureCache.open("memory://far/c.zarr").load()
    files.rm("far", recursive=True)


def test_s3_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "s3fs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(FeatureCacheError, match=r'Install s3fs.*pip install "bmnas\[s3\]"'):
        FeatureCache.open("s3://bucket/c.zarr")
    with pytest.raises(FeatureCacheError, match="nope://bucket/c cannot be read: Protocol not known"):
        FeatureCache.open("nope://bucket/c")
