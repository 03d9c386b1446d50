"""Who has looked at a test split: work/looks.jsonl, one JSON line a look, and no line is ever changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError


class Look(BaseModel, extra="forbid", frozen=True):
    """Scores of a test split that somebody could read.

    test: digest of its clips; command: what scored them; settings: digest of all that decides the scores. The same of
    all three is the same look, whenever it was.
    """

    schema_version: Literal[1] = 1
    test: str = Field(min_length=1)
    command: str = Field(min_length=1)
    settings: str = Field(min_length=1)


class _Line(Look, frozen=True):
    """when: UTC, for people to read."""

    when: str = ""


def add_look(path: Path, look: Look) -> None:
    """Appends the look to the file at `path`, unless it is there.

    A line is one write to the file's end, so that processes that look at once lose nothing; where a killed process or a
    full disk left half a line, the next one begins below it.
    """
    found, _ = read_looks(path)
    if look in found:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    line = _Line(**look.model_dump(), when=now).model_dump_json().encode() + b"\n"
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(fd).st_size
        torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        line = b"\n" * torn + line
        if os.write(fd, line) != len(line):
            raise OSError(f"{path}: the disk is full: the look at the test split could not be written down")
        os.fsync(fd)
    finally:
        os.close(fd)


def read_looks(path: Path) -> tuple[list[Look], Sequence[int]]:
    """(the looks, each once, in order; the numbers of lines that are damaged, from 1); none where there is no file."""
    found: dict[Look, None] = {}
    damaged = []
    content = path.read_bytes() if path.exists() else b""
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            try:
                row = _Line.model_validate_json(line)
            except ValidationError:
                damaged.append(number)
            else:
                found[Look(**row.model_dump(exclude={"when"}))] = None
    return list(found), damaged
