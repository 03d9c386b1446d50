"""Atomic writes: a file that exists is whole, and a file that DVC may have linked is replaced, never edited."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path, *, lasting: bool = True, one_of_many: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place when the block ends well, and vanishes if not.

    The content is on the disk before it has the name: a machine that loses its power leaves the old file or the new.
    lasting: False spares the wait (some ms) where whoever reads it finds out, and does without. one_of_many: True
    spares the look for what killed writers of `path` left, where the folder is long and is swept by who keeps it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _writing_beside(path, sweep=not one_of_many):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
            if lasting:
                sync(temporary)
            temporary.replace(path)
        except OSError as error:
            error.filename = error.filename or str(path)  # a full disk does not say who could not be written
            raise
        finally:
            temporary.unlink(missing_ok=True)
    if lasting:
        with suppress(OSError):  # not every file system can, and the name is there
            sync(path.parent)


@contextmanager
def _writing_beside(path: Path, *, sweep: bool) -> Iterator[None]:
    """Holds a shared lock of the folder, which ends with its process; who has it alone knows that writers are dead.

    sweep: first deletes what killed writers of `path` left, if nobody else writes in the folder now.
    """
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # others write there, or the file system has no locks: left for the next time
            if sweep:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
                    left.unlink(missing_ok=True)
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_SH)
        yield
    finally:
        os.close(folder)


def sync(path: Path) -> None:
    """Returns when the file, or a folder's names, are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by a UTF-8 file that holds `text`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` by indented JSON; raises ValueError on NaN, which JSON cannot say."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def digest(*parts: Any, digits: int = 16) -> str:
    """So many hex digits that name `parts` (anything that JSON can write, in any key order)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def file_sha256(path: Path) -> str:
    """The file's SHA-256, 64 hex digits, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
