"""What may be opened at all: regular files under the data root."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO


class MediaError(Exception):
    """A file cannot be used; the message says why in words for the quarantine list."""


class NoAudioError(MediaError):
    """The file has a picture but no (audible) sound track."""


def inside(root: Path, relative: str) -> Path:
    """The file `relative` under `root`; raises MediaError when the path (or a link in it) leads outside."""
    base = root.resolve()
    path = (base / relative).resolve()
    if not path.is_relative_to(base):
        raise MediaError("the path leads outside the data root")
    return path


def open_regular(path: Path) -> IO[bytes]:
    """The file at `path`, open; MediaError when there is no readable, non-empty, regular file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not make us wait for a writer
    except FileNotFoundError:
        raise MediaError("the file does not exist") from None
    except PermissionError:
        raise MediaError("the file cannot be read (permission denied)") from None
    except OSError as error:  # a socket, a device that is not there, a loop of links
        raise MediaError(f"the file cannot be opened ({error.strerror})") from None
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
        raise MediaError(reason)
    return os.fdopen(fd, "rb", buffering=0)


def check_file(path: Path) -> None:
    """Raises MediaError when there is no readable, non-empty, regular file at `path`."""
    open_regular(path).close()
