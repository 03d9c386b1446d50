"""A zip file in the one form that bundles have: every byte but the members' own follows from their names and contents.

    local header, name, content     of each member, one behind the other, from the first byte on
    central header, name            of each member, in the same order
    end of the central directory

Stored, no flags, no extra fields, no comments, no zip64, dates of 1980, ordinary files: the same members give the same
bytes, and any zip program reads them. Whatever is written otherwise is refused, so that no two programs can see
different files in one.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from cache_schemas.paths import path_text

_LOCAL, _CENTRAL, _END = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s4H2LH")
_LOCAL_SIGN, _CENTRAL_SIGN, _END_SIGN = b"PK\3\4", b"PK\1\2", b"PK\5\6"
_MADE_BY, _NEEDED, _DATE = 3 << 8 | 20, 20, 1 << 5 | 1  # Unix, zip 2.0; 1 January 1980
_FILE = 0o100644 << 16
_ZIP64 = 0xFFFFFFFF
_LETTERS = 100
_CHUNK = 1 << 20
MOST_MEMBERS = 1000
MOST_BYTES = _ZIP64 - 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*", re.ASCII)
_DEVICE = re.compile(r"(con|prn|aux|nul|conin|conout|clock|com\d|lpt\d)", re.IGNORECASE)
_AGAIN = "copy it again, or ask whoever made it for another"


class BundleError(ValueError):
    """A bundle cannot be written or used; the message names the file, the place in it, and the way out."""


def refused(path: Path, place: str, found: str, allowed: str, way_out: str = _AGAIN) -> BundleError:
    """The error of a bundle that is not as it must be; found: in the words of whoever made it, perhaps."""
    return BundleError(f"{path}: {place}: {path_text(found)[:300]}; allowed: {allowed}: {way_out}")


@dataclass(frozen=True)
class Entry:
    """A member as the zip's headers describe it."""

    name: str
    size: int
    crc: int
    offset: int
    """Of its local header."""

    @property
    def content(self) -> int:
        """Where its content begins."""
        return self.offset + _LOCAL.size + len(self.name)

    def local(self) -> bytes:
        """Its local header."""
        numbers = _NEEDED, 0, 0, 0, _DATE, self.crc, self.size, self.size, len(self.name), 0
        return _LOCAL.pack(_LOCAL_SIGN, *numbers) + self.name.encode("ascii")

    def central(self) -> bytes:
        """Its central header."""
        numbers = _NEEDED, 0, 0, 0, _DATE, self.crc, self.size, self.size, len(self.name), 0, 0, 0, 0, _FILE
        return _CENTRAL.pack(_CENTRAL_SIGN, _MADE_BY, *numbers, self.offset) + self.name.encode("ascii")


def write_stored(path: Path, members: Mapping[str, Path]) -> None:
    """Writes the files under these names, in this order; raises BundleError where a reader would refuse it."""
    entries: list[Entry] = []
    with path.open("wb") as target:
        for name, source in members.items():
            _check_name(path, name.encode(), [entry.name for entry in entries])
            with source.open("rb") as file:
                crc = 0
                for chunk in iter(lambda: file.read(_CHUNK), b""):
                    crc = zlib.crc32(chunk, crc)
                entry = Entry(name, file.tell(), crc, target.tell())
                if entry.content + entry.size > MOST_BYTES:
                    raise refused(path, name, f"it ends beyond {MOST_BYTES} bytes", "less", "leave weights out")
                target.write(entry.local())
                file.seek(0)
                for chunk in iter(lambda: file.read(_CHUNK), b""):
                    target.write(chunk)
            entries.append(entry)
        directory = b"".join(entry.central() for entry in entries)
        numbers = 0, 0, len(entries), len(entries), len(directory), target.tell(), 0
        target.write(directory + _END.pack(_END_SIGN, *numbers))


@dataclass(frozen=True)
class Archive:
    """An open bundle whose headers are as they must be; contents are not looked at before they are read."""

    path: Path
    size: int
    entries: dict[str, Entry]
    _file: BufferedReader

    def chunks(self, name: str) -> Iterator[bytes]:
        """The member, piece by piece; raises BundleError where it is not what its header says."""
        entry, crc, left = self.entries[name], 0, self.entries[name].size
        self._file.seek(entry.content)
        while left:
            chunk = self._file.read(min(left, _CHUNK))
            if not chunk:
                raise refused(self.path, name, "its end is missing", f"{entry.size} bytes")
            crc, left = zlib.crc32(chunk, crc), left - len(chunk)
            yield chunk
        if crc != entry.crc:
            raise refused(self.path, name, f"its CRC-32 is {crc:08x}", f"{entry.crc:08x}, as its header says")

    def sha256(self) -> str:
        """Of the whole file as it is open here, whatever has its name by now."""
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()

    def read(self, name: str, most: int) -> bytes:
        """The whole of it; raises BundleError where it is larger than `most` bytes."""
        if (size := self.entries[name].size) > most:
            raise refused(self.path, name, f"it has {size} bytes", f"{most} at most")
        return b"".join(self.chunks(name))


@contextmanager
def open_stored(path: Path) -> Iterator[Archive]:
    """The archive, its headers checked; raises BundleError where they are not as `write_stored` writes them.

    FileNotFoundError where there is none.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name a bundle, as `bmnas bundle -o FILE` writes it")
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
        raise refused(path, "what was named", "no ordinary file", "a bundle's file", "name that itself")
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        yield Archive(path, size, {entry.name: entry for entry in _entries(path, file, size)}, file)


def _entries(path: Path, file: BufferedReader, size: int) -> list[Entry]:
    if not _END.size < size <= MOST_BYTES:
        raise refused(path, "the file", f"it has {size} bytes", f"{_END.size + 1} to {MOST_BYTES}")
    number, length, start = _end(path, file, size)
    file.seek(start)
    directory = file.read(length)
    entries: list[Entry] = []
    place = 0
    for i in range(number):
        entry, place = _central(path, directory, place, i, entries)
        file.seek(entry.offset)
        if file.read(_LOCAL.size + len(entry.name)) != entry.local():
            raise refused(path, entry.name, "its two headers differ", "the local one says what the directory says")
        entries.append(entry)
    if place != length:
        raise refused(path, "its directory", f"{length - place} bytes behind the last member", "none")
    if (last := entries[-1].content + entries[-1].size) != start:
        raise refused(path, "its directory", f"it starts at byte {start}", f"{last}, where the last member ends")
    return entries


def _end(path: Path, file: BufferedReader, size: int) -> tuple[int, int, int]:
    """(members, bytes of the directory, where it starts)"""
    file.seek(size - _END.size)
    sign, *disks, here, number, length, start, comment = _END.unpack(file.read(_END.size))
    if sign != _END_SIGN:
        raise refused(
            path, "its last 22 bytes", "no end of a zip file", "that, without a comment, and nothing behind it: was it "
            "cut off, or something added?",
        )  # fmt: skip
    if comment or any(disks) or here != number:
        raise refused(path, "its end", "a comment, or several parts", "one part, no comment")
    if _ZIP64 in (length, start) or number == 0xFFFF:
        raise refused(path, "its end", "zip64", "sizes in 32 bits")
    if not 0 < number <= MOST_MEMBERS:
        raise refused(path, "its end", f"{number} members", f"1 to {MOST_MEMBERS}")
    if start + length != size - _END.size:
        raise refused(path, "its end", f"a directory of {length} bytes from {start}", "one that ends where it begins")
    return number, length, start


def _central(path: Path, directory: bytes, place: int, i: int, before: list[Entry]) -> tuple[Entry, int]:
    """(the member that is described at `place`, where the next one is)"""
    which = f"member {i + 1}"
    header = directory[place : place + _CENTRAL.size]
    if len(header) < _CENTRAL.size or header[:4] != _CENTRAL_SIGN:
        raise refused(path, which, "no header of it in the directory", "one for each member")
    (
        _, _, _, flags, method, _, _, crc, packed, size, letters, extra, comment, _, _, attributes, offset,
    ) = _CENTRAL.unpack(header)  # fmt: skip
    name = directory[place + _CENTRAL.size :][: min(letters, _LETTERS + 1)]
    text = _check_name(path, name, [entry.name for entry in before])
    for wrong, found, allowed in (
        (flags & 1, "it is encrypted", "plain"),
        (flags, f"flags {flags:#06x}", "none"),
        (method, f"it is compressed (method {method})", "stored"),
        (_ZIP64 in (packed, size, offset), "zip64", "sizes in 32 bits"),
        (packed != size, f"it has {packed} bytes and claims {size}", "one size"),
        (extra or comment, "an extra field or a comment", "neither"),
        (stat.S_ISLNK(attributes >> 16), "it is a link", "an ordinary file"),
    ):
        if wrong:
            raise refused(path, text, found, allowed)
    expected = before[-1].content + before[-1].size if before else 0
    if offset != expected:
        raise refused(path, text, f"it starts at byte {offset}", f"{expected}: no gaps, no overlaps, nothing before")
    entry = Entry(text, size, crc, offset)
    after = place + len(entry.central())
    if directory[place:after] != entry.central():
        raise refused(path, text, "versions, date or attributes are others", "those that bmnas writes")
    return entry, after


def _check_name(path: Path, name: bytes, before: list[str]) -> str:
    """The name as text, if every system takes it for the same ordinary file below a folder."""
    text = name.decode("ascii", "backslashreplace")
    plain = len(name) <= _LETTERS and name.isascii() and _NAME.fullmatch(text)
    if not plain or any(_DEVICE.fullmatch(part.partition(".")[0]) for part in text.split("/")):
        raise refused(
            path, "a member's name", repr(text), f"up to {_LETTERS} letters, digits, _ . - and / between them, no way "
            "out of a folder and no device",
        )  # fmt: skip
    if text.lower() in (other.lower() for other in before):
        raise refused(path, text, "two members of that name, but for capitals", "one")
    return text
