"""What the door and the decoder tell each other: a JSON header and named blocks of bytes, in a file without a name."""

from __future__ import annotations

import json
import math
import mmap
import os
import select
import struct
from collections.abc import Iterable, Sequence
from typing import Any

UNREADABLE = "the disk failed while it was read"
Block = bytes | bytearray | memoryview

_LENGTH = struct.Struct("<Q")
_MOST_PIECES = 1024  # that `writev` takes at once
_MOST_HEADER_BYTES = 1 << 20


def write_message(fd: int, header: dict[str, Any], **blocks: Block) -> None:
    """Writes both; the header holds plain JSON types."""
    bodies = {name: memoryview(block).cast("B") for name, block in blocks.items()}
    head = json.dumps({**header, "blocks": {name: len(body) for name, body in bodies.items()}}).encode()
    write_all(fd, [_LENGTH.pack(len(head)), head, *bodies.values()])


def read_message(fd: int) -> tuple[dict[str, Any], dict[str, memoryview]]:
    """(header, blocks), not copied; ValueError where there is none."""
    # What is sealed may be mapped in this way only.
    data = memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)).toreadonly()
    (length,) = _LENGTH.unpack(data[: _LENGTH.size])
    if length > _MOST_HEADER_BYTES:  # parsed, it would be many times as large
        raise ValueError("the header is too long")
    begin = _LENGTH.size + length
    header = json.loads(bytes(data[_LENGTH.size : begin]))
    blocks = {}
    for name, size in header.pop("blocks").items():
        blocks[name] = data[begin : begin + size]
        begin += size
    return header, blocks


def write_all(fd: int, pieces: Sequence[Block]) -> None:
    """Writes every byte of the pieces, in order."""
    left = [view for piece in pieces if (view := memoryview(piece).cast("B"))]
    while left:
        written = os.writev(fd, left[:_MOST_PIECES])
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]


def readable(fds: Iterable[int], patience_s: float | None = None) -> set[int]:
    """Those that can be read or have ended, when there is one; none after so long. They may have any number."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(None if patience_s is None else math.ceil(1000 * max(patience_s, 0)))}
