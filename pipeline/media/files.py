"""What may be opened at all: regular files under the data root."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO


class MediaError(Exception):
    """A file cannot be used; the message says why in words for the quarantine list.

    As it stands it is a verdict on the file's content: the same bytes get it again, so that it may be kept.
    """


class PassingError(MediaError):
    """Something else than the file's bytes is in the way: a disk, a limit that others fill, the clock, a path.

    It may be otherwise next time, so that it is never kept.
    """


class NoAudioError(MediaError):
    """The file has a picture but no (audible) sound track."""


def inside(root: Path, relative: str) -> Path:
    """The file `relative` under `root`; raises PassingError when the path (or a link in it) leads outside."""
    base = root.resolve()
    path = (base / relative).resolve()
    if not path.is_relative_to(base):
        raise PassingError("the path leads outside the data root")
    return path


def open_regular(path: Path) -> IO[bytes]:
    """The file at `path`, open; PassingError when there is no readable, non-empty, regular file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not make us wait for a writer
    except FileNotFoundError:
        raise PassingError("the file does not exist") from None
    except PermissionError:
        raise PassingError("the file cannot be read (permission denied)") from None
    except OSError as error:  # a socket, a device that is not there, a loop of links
        raise PassingError(f"the file cannot be opened ({error.strerror})") from None
    found = os.fstat(fd)
    reason = ""
    if stat.S_ISDIR(found.st_mode):
        reason = "a directory, not a file"
    elif not stat.S_ISREG(found.st_mode):
        reason = "a device or a pipe, not a file"
    elif found.st_size == 0:
        reason = "the file is empty (0 bytes)"
    if reason:
        os.close(fd)
        raise PassingError(reason)
    return os.fdopen(fd, "rb", buffering=0)


def check_file(path: Path) -> int:
    """Its size in bytes; raises PassingError when there is no readable, non-empty, regular file at `path`."""
    with open_regular(path) as file:
        return os.fstat(file.fileno()).st_size
