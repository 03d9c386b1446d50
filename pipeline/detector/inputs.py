"""What `predict` is asked about: files, folders, patterns that no shell has expanded, lists on standard input."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cache_schemas.listing import media_files

_HEAD_BYTES, _MOST_CONTROLS = 4096, 16
_CONTROLS = bytes([*range(1, 9), *range(14, 27), *range(28, 32)])
"""Bytes that films are full of; in names, even hostile ones, they are rare."""


class NoListError(ValueError):
    """Standard input holds something else than names."""


@dataclass(frozen=True)
class Asked:
    """A file that is to be scored, or what holds none, and why."""

    path: Path
    reason: str = ""


def asked(given: Sequence[str], standard_input: BinaryIO) -> list[Asked]:
    """In the order of `given`: files as they are, folders' media files by their names, sorted, and so are patterns'.

    "-" stands for what standard input lists, one a line, or parted by NULs where it holds any. Raises NoListError where
    that is a film.
    """
    return [found for text in given for name in _listed(text, standard_input) for found in _found(name)]


def _listed(text: str, standard_input: BinaryIO) -> Iterator[str]:
    if text != "-":
        yield text
        return
    head = standard_input.read(_HEAD_BYTES)
    if sum(byte in _CONTROLS for byte in head) >= _MOST_CONTROLS:
        raise NoListError(
            "standard input holds no list of names, but what looks like a file itself: give its path, or write it into "
            "a file first"
        )
    raw = head + standard_input.read()
    lines = raw.split(b"\0") if b"\0" in raw else [line.removesuffix(b"\r") for line in raw.split(b"\n")]
    yield from (os.fsdecode(line) for line in lines if line)


def _found(name: str) -> Iterator[Asked]:
    path = Path(name)
    try:
        folder, there = path.is_dir(), os.path.lexists(path)
    except OSError:  # a name too long, a folder that may not be looked into: `predict` says so
        folder, there = False, True
    if folder:
        files = [file for file in map(path.joinpath, media_files(path)) if not file.is_dir()]
        yield from map(Asked, files)
        if not files:
            yield Asked(path, "no file in this folder is named as media are")
    elif not there and (matches := _matches(path)):
        yield from dict.fromkeys(found for match in matches for found in _found(match))
    elif not there and glob.has_magic(name):
        yield Asked(path, "no file matches this pattern")
    else:
        yield Asked(path)


def _matches(pattern: Path) -> list[str]:
    """Sorted. `**` goes into no link: they may lead in circles."""
    if "**" not in pattern.parts:
        return sorted(glob.glob(str(pattern)))  # noqa: PTH207 - passes over hidden files, as shells do
    parts = [part if part == "**" else re.sub(r"\*+", "*", part) for part in pattern.parts[bool(pattern.anchor) :]]
    return sorted(map(str, Path(pattern.anchor).glob("/".join([*parts, *["*"] * (parts[-1] == "**")]))))
