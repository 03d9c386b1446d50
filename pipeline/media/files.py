"""What may be opened at all: regular files under the data root."""

from __future__ import annotations

import os
from pathlib import Path


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


def check_file(path: Path) -> None:
    """Raises MediaError when there is no readable, non-empty, regular file at `path`."""
    if path.is_dir():
        raise MediaError("a directory, not a file")
    if not path.exists():
        raise MediaError("the file does not exist")
    if not path.is_file():
        raise MediaError("a device or a pipe, not a file")
    if path.stat().st_size == 0:
        raise MediaError("the file is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise MediaError("the file cannot be read (permission denied)")
