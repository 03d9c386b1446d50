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
from moto.server import ThreadedMotoServer
from zarr.core.sync import _get_loop

from cache_schemas.features import FeatureCache, FeatureCacheError, sources
from cache_schemas.features.layout import CHECKSUM_BYTES
from nas.config import SearchConfig
from nas.searching import search
from tests.cache_schemas.features.small_cache import VISUAL, build, check, names

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
def s3_server() -> Iterator[None]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FSSPEC_S3_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        patch.setenv("AWS_REGION", "us-east-1")
        kind = fsspec.get_filesystem_class("s3")
        kind.clear_instance_cache()
        yield
    for files in kind._cache.values():  # s3fs leaves the sessions of Zarr's file systems open
        loop = _get_loop() if files.asynchronous else files.loop
        fsspec.asyn.sync(loop, files._s3.close)
    kind.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module", params=["memory", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    if request.param == "s3":
        request.getfixturevalue("s3_server")
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
    assert same(there.read(positions, view=1), here.read(positions, view=1))
    batches = zip(there.batches(4, seed=3), here.batches(4, seed=3), strict=True)
    assert all(np.array_equal(i, j) and same(a, b) for (i, a), (j, b) in batches)


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
        (lambda whole: whole[:3] + bytes([whole[3] ^ 1]) + whole[4:], "chunk 0 is damaged"),
        (lambda whole: whole[:10], "is cut off"),
        (lambda _: b"", "is cut off"),
        (lambda _: None, "cannot be read"),
    ],
    ids=["flipped", "short", "empty", "missing"],
)
def test_a_damaged_object_is_an_error_that_names_it(remote: Remote, content: Any, message: str) -> None:
    whole = remote.replace(SHARD, (remote.local / SHARD).read_bytes())
    remote.replace(SHARD, content(whole))
    try:
        with pytest.raises(FeatureCacheError, match=rf"net\.2 \(.*c\.1\.0\.0\).*{message}.*cache verify --drop"):
            remote.open().load()
    finally:
        remote.files.pipe_file(f"{remote.url}/{SHARD}", whole)
    check(remote.url, WINDOWS)


def test_no_cache_there_is_said(remote: Remote) -> None:
    for name in ("bucket/none.zarr", "nobucket/c.zarr", "bucket"):
        url = f"{remote.url.partition('://')[0]}://{name}"
        with pytest.raises(FeatureCacheError, match=f"{url}: no feature cache: run `bmnas features` first"):
            FeatureCache.open(url)


def test_a_small_read_fetches_its_chunks_only(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = remote.open()
    fetched: list[int] = []
    original = remote.files.cat_ranges

    def recording(paths: Any, starts: list[int], ends: list[int], **options: Any) -> Any:
        fetched.extend(end - start for start, end in zip(starts, ends, strict=True))
        return original(paths, starts, ends, **options)

    monkeypatch.setattr(cache._source._files, "cat_ranges", recording)  # type: ignore[union-attr]
    monkeypatch.setattr(sources, "GAP_BYTES", 0)
    cache.read([5], ["visual/net.2"])
    table = 4 * VISUAL.shard_chunks * len(VISUAL.layers) + CHECKSUM_BYTES
    assert fetched == [VISUAL.geometry("visual/net.2").chunk_bytes, table]


def test_s3_is_asked_once_a_run_of_chunks(s3_server: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Counted by the server: loading asks once a shard and layer, reading two neighbours asks once."""
    build(tmp_path / "c.zarr", WINDOWS)
    files = fsspec.filesystem("s3")
    files.mkdir("counted")
    files.put(str(tmp_path / "c.zarr"), "counted/c.zarr", recursive=True)
    cache = FeatureCache.open("s3://counted/c.zarr")
    assert len(cache.index) == len(cache.rows(VISUAL)) == len(WINDOWS)
    for action, expected in (
        (lambda: cache.read([4, 5], ["visual/net.2"]), 1),
        (lambda: cache.load(layers=VISUAL.layers), 2 * -(-len(WINDOWS) // VISUAL.shard_rows)),
    ):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="werkzeug"):
            action()
        requests = [record.getMessage() for record in caplog.records if record.name == "werkzeug"]
        of_shards = [request for request in requests if re.search(r"/c\.\d+\.0\.0 HTTP", request)]
        assert len(of_shards) == expected
        assert all("GET" in request and "206" in request for request in of_shards)
        tables = [request for request in requests if "/checksum/" in request]
        assert len(requests) == expected + len(tables), "besides the shards, only their checksums are asked for"


def test_a_server_out_of_reach_is_said_with_what_to_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build(tmp_path / "c.zarr", names(3))
    files = fsspec.filesystem("memory")
    files.put(str(tmp_path / "c.zarr"), "far/c.zarr", recursive=True)
    cache = FeatureCache.open("memory://far/c.zarr")

    def unreachable(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(type(files), "cat_ranges", unreachable)
    with pytest.raises(FeatureCacheError, match=r"memory://.*c\.0\.0\.0 cannot be read: no route.*AWS_ENDPOINT_URL"):
        cache.load()
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
