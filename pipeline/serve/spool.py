"""The folder of uploads: this user's alone, empty when the service starts and when it ends, however it ended before."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.serve.settings import ServeError

NAME = "bmnas-serve"
_LOCK = "lock"


def default_spool() -> Path:
    """A folder of this user's in the machine's folder of temporary files."""
    return Path(tempfile.gettempdir()) / f"bmnas-{os.getuid()}"


@contextmanager
def open_spool(parent: Path) -> Iterator[Path]:
    """The folder NAME below `parent`, made where it is not there, with nothing of an earlier service in it.

    Only what lies in that folder is ever deleted. Raises ServeError where it is somebody else's, or in use.
    """
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    parent = parent.resolve()  # a link that leads elsewhere later leads nothing of ours there
    of_parent = parent.stat()
    if of_parent.st_uid not in (0, os.getuid()) or of_parent.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
        raise ServeError(f"others may put another folder into the place of {parent / NAME}: give a --spool of your own")
    folder = parent / NAME
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ServeError(f"{folder} is not a folder of your own: give another place as --spool FOLDER")
    folder.chmod(0o700)
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ServeError(f"{folder} is in use by another service: give this one a --spool of its own") from None
    try:
        _empty(folder)
        yield folder
    finally:
        _empty(folder)
        lock.release()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _LOCK:
            path.unlink(missing_ok=True)
