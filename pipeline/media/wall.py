"""What holds a decoder here, measured in one: the wall, its limits, and what of ffmpeg is behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.media.process import reading


@dataclass(frozen=True)
class Isolation:
    """As a copy of the decoder finds itself."""

    filtered: bool
    """Whether it is held to a list of system calls (seccomp)."""
    why_not_filtered: str
    """Empty where it is."""
    separated: bool
    """Whether it has a network (an empty one), a user and a root folder (an empty one) of its own."""
    why_not_separated: str
    no_new_privs: bool
    limits: dict[str, int]
    """That it cannot raise; -1: none. memory_bytes, output_bytes (a file), cpu_s, files, processes."""
    ffmpeg: str
    """The version."""
    libraries: dict[str, str]
    """{name of ffmpeg's library: version}"""
    codecs: tuple[str, ...]
    """ffmpeg's decoders that may be used and are there."""


def isolation() -> Isolation:
    """What is in force on this machine, for this user."""
    with reading("report_jail", Path(__file__), [], {}) as process:
        found, _ = process.result()
    notes = found.pop("notes")
    return Isolation(
        why_not_filtered=notes["seccomp"],
        separated=not notes["namespaces"],
        why_not_separated=notes["namespaces"],
        codecs=tuple(found.pop("codecs")),
        **found,
    )
