"""What killed writers leave behind, and that `gc` takes it away."""

import os
from pathlib import Path

import pytest
import safetensors.numpy

from cache_schemas.features.upkeep import STALE_SECONDS, collect_garbage
from cache_schemas.features.writer import staging_folder
from tests.cache_schemas.features.small_cache import VISUAL, build, check, key_of, names, stage

WINDOWS = names(10)


def test_temporary_files_go_with_gc_but_not_those_of_a_run_at_work(tmp_path: Path) -> None:
    path = tmp_path / "features.zarr"
    build(path, WINDOWS)
    staged = staging_folder(path) / VISUAL.path
    staged.mkdir(parents=True, exist_ok=True)
    gone = [
        tmp_path / ".features.zarr.abc.tmp",  # a root that was never finished
        path / VISUAL.path / ".zarr.json.abc.tmp",
        path / VISUAL.path / "zarr.0123456789abcdef.partial",
        staged / ".old.safetensors.abc.tmp",
    ]
    kept = [staged / ".young.safetensors.abc.tmp", tmp_path / ".another.zarr.abc.tmp"]
    for file in (*gone, *kept):
        file.write_bytes(b"half")
    old = gone[-1].stat().st_mtime - STALE_SECONDS - 1
    os.utime(gone[-1], (old, old))
    collect_garbage(path)
    assert not [file for file in gone if file.exists()]
    assert all(file.exists() for file in kept)
    check(path, WINDOWS)


def test_a_piece_has_one_temporary_file_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that `gc` knows by its name: where the writer is when it is killed."""
    seen = []
    encode = safetensors.numpy.save

    def save(*args: object) -> bytes:
        seen.extend(file.name for file in tmp_path.rglob("*") if file.is_file())
        return encode(*args)

    monkeypatch.setattr(safetensors.numpy, "save", save)
    stage(tmp_path / "features.zarr", VISUAL, [key_of(VISUAL, window) for window in WINDOWS])
    assert len(seen) == 1
    assert seen[0].startswith(".")
    assert seen[0].endswith(".tmp")
