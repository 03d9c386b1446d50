"""MP4 files whose tables are changed: what they say of the pictures is no longer so, or is more than ffmpeg writes."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

_HOLDERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts"}
Edit = Callable[[bytes, bytes], bytes]
"""(a box's name, its body) -> its body from now on."""


def edit_boxes(path: Path, edit: Edit) -> Path:
    """The file at `path`, changed in place; its index is behind the media, where ffmpeg puts it."""
    path.write_bytes(_edited(path.read_bytes(), edit))
    return path


def _edited(data: bytes, edit: Edit) -> bytes:
    found, at = b"", 0
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + size]
        body = edit(name, _edited(body, edit) if name in _HOLDERS else body)
        found += struct.pack(">I4s", len(body) + 8, name) + body
        at += size
    return found


def set_keys(path: Path, samples: Sequence[int]) -> Path:
    """The table of keys names these samples, from 0 on."""
    table = struct.pack(f">{2 + len(samples)}I", 0, len(samples), *(sample + 1 for sample in samples))
    return edit_boxes(path, lambda name, body: table if name == b"stss" else body)


def name_open_groups(path: Path) -> Path:
    """All keys but the first are said to begin open groups, as phones write it for HEVC."""

    def edit(name: bytes, body: bytes) -> bytes:
        if name != b"stbl":
            return body
        at = body.index(b"stss")
        (count,) = struct.unpack(">I", body[at + 8 : at + 12])
        keys = [key - 1 for key in struct.unpack(f">{count}I", body[at + 12 : at + 12 + 4 * count])]
        at = body.index(b"stsz")
        keys += struct.unpack(">I", body[at + 12 : at + 16])  # the end
        groups = struct.pack(">4sIIBB", b"sync", 1, 2, 20, 21)  # kinds of units: IDR, CRA
        runs = [run for a, b in itertools.pairwise(keys) for run in ((1, 1 + (a > 0)), (b - a - 1, 0))]
        members = struct.pack(">4sI", b"sync", len(runs)) + b"".join(struct.pack(">II", *run) for run in runs)
        for kind, version, content in ((b"sgpd", 1, groups), (b"sbgp", 0, members)):
            body += struct.pack(">I4sI", len(content) + 12, kind, version << 24) + content
        return body

    return edit_boxes(path, edit)
