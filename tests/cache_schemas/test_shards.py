"""HDF5 shards: what is written comes back, what is broken is computed again."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schemas.shards import (
    ArraySpec,
    ClipResult,
    ShardError,
    ShardSchema,
    read_rows,
    scan_shards,
    stale_files,
    write_shard,
)

X, Y = ArraySpec("x", "float32", (None, 2), "m"), ArraySpec("y", "uint8", (None, None, None, 3), "RGB", "webp")
SCHEMA = ShardSchema("test", (X, Y)).with_codec("zstd")


def result(clip_id: str, n: int, plan: str = "p") -> ClipResult:
    rng = np.random.default_rng(len(clip_id) + n)
    arrays = {"x": rng.random((n, 3, 2), dtype=np.float32), "y": rng.integers(0, 255, (n, 2, 4, 5, 3), dtype=np.uint8)}
    return ClipResult(clip_id, plan, tuple(float(i) for i in range(n)), arrays, {"n": n})


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, counts: list[int]) -> None:
    folder = tmp_path_factory.mktemp("shards")
    results = [result(f"c{i}", n) if n else ClipResult(f"c{i}", "p", reason="no face") for i, n in enumerate(counts)]
    write_shard(folder, SCHEMA, "key", results)
    entries = scan_shards(folder, SCHEMA, "key")
    assert list(entries) == [(r.clip_id, "p") for r in results]
    for r in results:
        entry = entries[r.clip_id, "p"]
        assert (entry.starts_s, entry.reason, dict(entry.info)) == (r.starts_s, r.reason, dict(r.info))
        if not r.reason:
            rows = range(entry.first_row, entry.first_row + len(entry.starts_s))
            found = read_rows(entry.path, SCHEMA, rows)
            assert all(np.array_equal(found[name], r.arrays[name]) for name in ("x", "y"))


def test_another_key_schema_or_plan_is_not_found(tmp_path: Path) -> None:
    write_shard(tmp_path, SCHEMA, "key", [result("a", 1)])
    assert scan_shards(tmp_path, SCHEMA, "other") == {}
    assert scan_shards(tmp_path, ShardSchema("faces", ()), "key") == {}
    assert ("a", "q") not in scan_shards(tmp_path, SCHEMA, "key")


@pytest.mark.parametrize("damage", ["truncate", "garbage", "empty", "other"])
def test_a_damaged_shard_counts_as_absent(tmp_path: Path, damage: str) -> None:
    good = write_shard(tmp_path, SCHEMA, "key", [result("a", 1)])
    bad = write_shard(tmp_path, SCHEMA, "key", [result("b", 2)])
    content = {"truncate": bad.read_bytes()[:700], "garbage": b"no HDF5 at all", "empty": b""}
    if damage == "other":
        with h5py.File(bad, "w") as file:
            file["something"] = 1
    else:
        bad.write_bytes(content[damage])
    assert list(scan_shards(tmp_path, SCHEMA, "key")) == [("a", "p")]
    with pytest.raises(ShardError, match=bad.name):
        read_rows(bad, SCHEMA, [0])
    assert stale_files(tmp_path, [good]) == {bad}


def test_arrays_that_break_the_schema_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    wrong = ClipResult(
        "a", "p", (0.0,), {"x": np.zeros((1, 3, 3), np.float32), "y": np.zeros((1, 2, 4, 5, 3), np.uint8)}
    )
    with pytest.raises(ShardError, match=r"x: is float32 \(1, 3, 3\), must be float32 \(1, 'any', 2\)"):
        write_shard(tmp_path, SCHEMA, "key", [wrong])
    assert list(tmp_path.iterdir()) == []


def test_the_reader_need_not_know_the_codec(tmp_path: Path) -> None:
    one = result("a", 2)
    path = write_shard(tmp_path, SCHEMA.with_codec("webp"), "key", [one])
    assert np.array_equal(read_rows(path, SCHEMA, [1, 0])["y"], one.arrays["y"][::-1])


def test_damaged_pictures_name_the_file(tmp_path: Path) -> None:
    path = write_shard(tmp_path, SCHEMA, "key", [result("a", 1)])
    with h5py.File(path, "r+") as file:
        file["y"][0] = file["y"][0][:30]
    with pytest.raises(ShardError, match=path.name):
        read_rows(path, SCHEMA, [0])


def test_leftovers_of_a_killed_writer_are_stale(tmp_path: Path) -> None:
    (tmp_path / ".abc.h5.x.tmp").write_bytes(b"half")
    assert scan_shards(tmp_path, SCHEMA, "key") == {}
    assert stale_files(tmp_path, []) == {tmp_path / ".abc.h5.x.tmp"}


def test_a_disk_that_gives_no_locks_is_read(tmp_path: Path) -> None:
    """As NFS without its lock daemon. Whoever holds a lock is no obstacle either: nobody changes a shard."""
    path = write_shard(tmp_path, SCHEMA, "key", [result("a", 1)])
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert len(read_rows(path, SCHEMA, [0])["x"]) == 1


def test_who_insists_on_locks_is_told_so(tmp_path: Path) -> None:
    path = write_shard(tmp_path, SCHEMA, "key", [result("a", 1)])
    read = (
        "from pathlib import Path; from cache_schemas.shards import ShardSchema, read_rows; "
        f"read_rows(Path({str(path)!r}), ShardSchema('test', ()), [0])"
    )
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        environment = os.environ | {"HDF5_USE_FILE_LOCKING": "TRUE"}
        said = subprocess.run(
            [sys.executable, "-c", read], env=environment, capture_output=True, text=True, check=False
        )
    assert "set HDF5_USE_FILE_LOCKING=FALSE" in said.stderr
    assert "delete" not in said.stderr


@pytest.mark.parametrize("first", ["failed", "well"])
def test_a_clip_that_went_well_when_it_was_tried_again_went_well(tmp_path: Path, first: str) -> None:
    tries = {"failed": [ClipResult("a", "p", reason="no face"), result("b", 1)], "well": [result("a", 2)]}
    for name, results in tries.items():  # whichever is met first
        write_shard(tmp_path, SCHEMA, "key", results).rename(tmp_path / f"{int(name != first)}.h5")
    assert scan_shards(tmp_path, SCHEMA, "key")["a", "p"].reason == ""


def test_a_hundred_thousand_shards_are_looked_through_without_hdf5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 takes a millisecond to open a file. The table in front says the same, however long it is."""
    many = [ClipResult(f"c{i}", "p", reason="ä" * 100) for i in range(200)]
    write_shard(tmp_path, SCHEMA, "key", [result("a", 2), *many, result("b", 1)])
    without_head(write_shard(tmp_path, SCHEMA, "key", [result("of an older version", 2)]))
    with_hdf5 = scan_shards(tmp_path, SCHEMA, "key")
    assert len(with_hdf5) == 203
    monkeypatch.setattr(h5py, "File", None)
    (tmp_path / "older.h5").unlink()
    found = scan_shards(tmp_path, SCHEMA, "key")
    assert found == {name: entry for name, entry in with_hdf5.items() if entry.path.name != "older.h5"}
    assert scan_shards(tmp_path, SCHEMA, "other") == {}


def without_head(path: Path) -> None:
    """As versions before wrote it, into a file of its own."""
    with h5py.File(path) as whole, h5py.File(path.with_name("older.h5"), "w") as older:
        older.attrs.update(whole.attrs)
        for name in whole:
            whole.copy(name, older)
    path.unlink()


@pytest.mark.parametrize("where", ["name", "clips", "last"])
def test_a_shard_whose_front_is_damaged_counts_as_absent(tmp_path: Path, where: str) -> None:
    path = write_shard(tmp_path, SCHEMA, "key", [result("a", 1)])
    content = bytearray(path.read_bytes())
    content[content.index({"name": b"key", "clips": b"starts_s", "last": b"}]\n"}[where])] ^= 1
    path.write_bytes(content)
    assert scan_shards(tmp_path, SCHEMA, "key") == {}
    path.write_bytes(write_shard(tmp_path, SCHEMA, "key", [result("a", 1)]).read_bytes() + b"\0")
    assert scan_shards(tmp_path, SCHEMA, "key") == {}
