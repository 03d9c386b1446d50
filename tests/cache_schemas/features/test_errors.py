"""What can go wrong around a cache: each is one error that names the place and says what to do."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cache_schemas.features import FeatureCache, FeatureCacheError, FeatureCacheWriter
from cache_schemas.features.upkeep import merge, verify
from tests.cache_schemas.features.small_cache import AUDIO, VISUAL, build, check, names


@pytest.fixture
def path(path: Path) -> Path:
    build(path, names(21))
    return path


def change_root(path: Path, **attributes: Any) -> None:
    file = path / "zarr.json"
    content = json.loads(file.read_text())
    content["attributes"] |= attributes
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("version", [1, 5, None])
def test_another_schema(path: Path, version: int | None) -> None:
    change_root(path, schema_version=version)
    for action in (FeatureCache.open, FeatureCacheWriter, verify):
        with pytest.raises(
            FeatureCacheError, match=rf"c\.zarr: .*version 4 \(it says {version}\): move it away, and run"
        ):
            action(path)
    with pytest.raises(FeatureCacheError, match="move it away, and run"):
        merge(path.with_name("new.zarr"), path)


def test_another_zarr_group(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parent / "data" / "format-3" / "visual", tmp_path / "c.zarr")
    with pytest.raises(FeatureCacheError, match=r"not a feature cache of schema version 4 \(it says None\)"):
        FeatureCache.open(tmp_path / "c.zarr")


def test_a_layer_that_is_missing(path: Path) -> None:
    with pytest.raises(FeatureCacheError, match=r"no layer was asked for; it has visual/net\.1"):
        FeatureCache.open(path).read([0], [])
    shutil.rmtree(path / VISUAL.array("visual/net.2"))
    for action in (FeatureCache.load, lambda cache: cache.read([0])):
        with pytest.raises(FeatureCacheError, match=r"net\.2/zarr\.json is missing.*verify --drop"):
            action(FeatureCache.open(path))
    assert any("net.2" in problem for problem in verify(path).problems)


def test_a_half_written_cache(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    build(path, names(21), stop_after=3)
    with pytest.raises(FeatureCacheError, match=r"c\.zarr: the features stage did not finish: run `bmnas features`"):
        FeatureCache.open(path)
    assert verify(path).problems == []
    change_root(path, index="0123")
    with pytest.raises(FeatureCacheError, match=r"index/0123 is missing: run `bmnas features` again"):
        FeatureCache.open(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"zarr_format": 9, "node_type": "group"}'])
def test_a_damaged_zarr_json(path: Path, content: bytes) -> None:
    index = next(path.glob("index/*/zarr.json"))
    column = index.parent / "label" / "zarr.json"
    for file in (path / "zarr.json", index, column):
        whole = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(FeatureCacheError, match=r"c\.zarr.*(cannot be read|is missing|no feature).*(dvc|run)"):
            _ = FeatureCache.open(path).index
        file.write_bytes(whole)
    check(path, names(21))


@pytest.mark.parametrize("keep", [None, 0, 5, 30])
def test_keys_cut_short_or_gone(path: Path, keep: int | None) -> None:
    file = path / AUDIO.path / "key" / "c.1.0"
    whole = file.read_bytes()
    file.unlink()
    if keep is not None:
        file.write_bytes(whole[:keep])
    problems = verify(path).problems
    assert any("c.1.0" in problem or "points to rows" in problem for problem in problems)
    check(path, names(21))  # who reads by the index needs no keys


def test_damaged_attributes_of_an_index_are_not_believed(path: Path) -> None:
    file = next(path.glob("index/*/zarr.json"))
    file.write_text(file.read_text().replace('"views": 1', '"views": 2'))
    with pytest.raises(FeatureCacheError, match=r"index/\w+/zarr\.json is damaged.*dvc checkout"):
        FeatureCache.open(path)


@contextmanager
def immutable(folder: Path) -> Iterator[None]:
    """Nobody may write to the folder, root included."""
    folder.chmod(0o555)
    attribute = shutil.which("chattr") if os.geteuid() == 0 else None
    if os.geteuid() == 0 and (attribute is None or subprocess.run([attribute, "+i", folder], check=False).returncode):
        pytest.skip("root may write everywhere, and this file system knows no immutable folders")
    try:
        yield
    finally:
        if attribute:
            subprocess.run([attribute, "-i", folder], check=True)
        folder.chmod(0o755)


def test_a_read_only_folder(path: Path) -> None:
    """It can be read; a run says what it may not write, and loses nothing that it has finished."""
    layer = path / VISUAL.array("visual/net.2")
    with immutable(layer):
        check(path, names(21))
        assert verify(path).problems == []
        with pytest.raises(FeatureCacheError, match=r"net\.2/zarr\.json cannot be written.*correct the permissions"):
            build(path, names(30))
    check(path, names(21))
    assert build(path, names(30)) == 9, "what was staged is not computed again, only the other backbone's rows"
    check(path, names(30))


def test_an_index_that_cannot_be_written(path: Path) -> None:
    with immutable(path / "index"), pytest.raises(FeatureCacheError, match=r"index/\w+ cannot be written.*permissions"):
        build(path, names(20))
    check(path, names(21))


def test_a_folder_in_which_no_cache_can_begin(tmp_path: Path) -> None:
    with immutable(tmp_path), pytest.raises(FeatureCacheError, match=r"cannot be written.*correct the permissions"):
        FeatureCacheWriter(tmp_path / "c.zarr")


FULL = """
import resource, signal, sys
from pathlib import Path
from tests.cache_schemas.features.small_cache import build, names
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
build(Path(sys.argv[1]), names(30))
"""


def test_a_full_disk(path: Path) -> None:
    """Files may not grow beyond what a staged piece needs, so that a shard fails half way."""
    limit = (path / VISUAL.array("visual/net.2") / "c.0.0.0").stat().st_size - 100
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", FULL, str(path), str(limit)]
    failed = subprocess.run(command, check=False, capture_output=True, text=True)
    message = os.strerror(errno.EFBIG)
    assert failed.returncode == 1
    assert f"net.2/c.3.0.0 cannot be written: [Errno {errno.EFBIG}] {message}. What was finished" in failed.stderr
    assert "make room" in failed.stderr
    check(path, names(21))
    assert verify(path).problems == []
    assert not list(path.rglob(".*.tmp")), "no half file stays"
    build(path, names(30))
    check(path, names(30))
