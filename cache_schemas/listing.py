"""Which files of a folder are media, by their names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

VIDEO_SUFFIXES = frozenset(
    {
        ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv", ".wmv",
        ".asf", ".ogv", ".3gp", ".3g2", ".mxf", ".nut",
    }
)  # fmt: skip


def media_files(root: Path, below: str = "", *, suffixes: frozenset[str] = VIDEO_SUFFIXES) -> Iterator[str]:
    """Paths relative to `root` of the files with such a suffix in its folder `below`, sorted. Links to folders are
    given, not followed: they may lead outside, or in circles.
    """
    for folder, folders, names in os.walk(root / below):
        folders.sort()
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted([*names, *links]):
            if name in links or Path(name).suffix.lower() in suffixes:
                yield (Path(folder) / name).relative_to(root).as_posix()
