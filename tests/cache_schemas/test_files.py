"""Atomic files: whole or not at all."""

import errno
import json
import os
import stat
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_schemas.files import digest, replacing, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_no_leftover(tmp_path: Path) -> None:
    target = tmp_path / "a" / "file.txt"
    write_text(target, "old")

    def fail() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk"):
        fail()
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "shard.h5"):
            raise OSError(errno.ENOSPC, "No space left on device")  # as a write says it, without a name

    with pytest.raises(OSError, match=r"No space left on device: '.*/shard\.h5'"):
        write()


def test_a_file_that_others_link_to_is_replaced_not_edited(tmp_path: Path) -> None:
    target, link = tmp_path / "file", tmp_path / "link"
    write_text(target, "old")
    link.hardlink_to(target)
    write_text(target, "new")
    assert (target.read_text(), link.read_text()) == ("new", "old")


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a machine that loses its power leaves an empty file that counts as whole."""
    target, synced = tmp_path / "file.txt", []
    write_text(target, "old")

    def fsync(fd: int) -> None:
        folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        synced.append(("folder" if folder else os.pread(fd, 100, 0).decode(), target.read_text()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(target, "new")
    assert synced == [("new", "old"), ("folder", "new")]


KILLED = """
import os, signal, sys
from pathlib import Path
from cache_schemas.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_writer_clears_away_what_killed_ones_left_and_never_what_others_write(tmp_path: Path) -> None:
    target, others = tmp_path / "list[1].csv", [tmp_path / ".list1.csv.abc.tmp", tmp_path / ".mine.tmp"]
    for other in others:
        other.touch()
    with Popen([sys.executable, "-c", KILLED, target], stdin=PIPE, stdout=PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        assert writer.stdout.readline() == "writing\n"
        write_text(target, "beside")
        (left,) = set(tmp_path.iterdir()) - {target, *others}
        writer.stdin.close()
    assert left.read_text() == "half"  # a writer is killed, and what it wrote remains
    write_text(tmp_path / "else.csv", "")
    assert left.exists()
    write_text(target, "new")
    assert set(tmp_path.iterdir()) == {target, tmp_path / "else.csv", *others}
    assert target.read_text() == "new"


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"auc": float("nan")})
    assert not (tmp_path / "x.json").exists()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(values, values)
def test_digest_tells_values_apart_and_only_values(a: object, b: object) -> None:
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (digest(a) == digest(b)) == same
    assert len(digest(a)) == 16
