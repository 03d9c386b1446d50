"""Clips of a second whose picture is good and whose sound cannot be used."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.pipeline.clips import H264, copy_clip, make_clip

MPEG4 = ("-c:v", "mpeg4")


def at_rate(path: Path, rate_hz: float) -> Path:
    """A Matroska clip of a second at 8000 Hz whose header says another rate."""
    data = make_clip(path, *MPEG4, "-c:a", "pcm_s16le", "-ar", "8000").read_bytes()
    place = data.index(struct.pack(">d", 8000.0))
    path.write_bytes(data[:place] + struct.pack(">d", rate_hz) + data[place + 8 :])
    return path


def of_an_unknown_codec(path: Path) -> Path:
    data = make_clip(path, *H264, "-c:a", "aac").read_bytes()
    described = data.index(b"esds")  # without it, too, as another codec's track has none
    path.write_bytes((data[:described] + b"free" + data[described + 4 :]).replace(b"mp4a", b"zzzz"))
    return path


def not_finite(path: Path) -> Path:
    clip = make_clip(path, *MPEG4, "-c:a", "pcm_f32le", sound="aevalsrc=0.123:s=8000")
    data = clip.read_bytes()
    path.write_bytes(data.replace(struct.pack("<ff", 0.123, 0.123), struct.pack("<ff", np.nan, np.inf)))
    return path


def as_loud_as_nothing(path: Path) -> Path:
    """Finite, but its power is not."""
    return make_clip(path, *MPEG4, "-c:a", "pcm_f32le", sound="aevalsrc=1e25*sin(2764*t):s=8000")


def undecodable(path: Path) -> Path:
    whole = make_clip(path.with_name(f"whole.{path.suffix[1:]}"), *H264, "-c:a", "flac")
    return copy_clip(whole, path, "-bsf:a", "noise=amount=1")


def shifted(path: Path, *, picture_s: float = 0, sound_s: float = 0) -> Path:
    """The one or the other is shown so much later."""
    whole = make_clip(path.with_name(f"whole of {path.name}"))
    parts = ["-itsoffset", str(sound_s), "-i", str(whole), "-itsoffset", str(picture_s)]
    return copy_clip(whole, path, "-map", "1:v", "-map", "0:a", before=parts)


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "unknown.mp4": (of_an_unknown_codec, "the sound's codec is not known"),
    "nan.mov": (not_finite, "not finite"),
    "loud.mkv": (as_loud_as_nothing, "louder than any sound"),
    "noise.mkv": (undecodable, "empty or cannot be decoded"),
    "empty.mkv": (
        lambda p: copy_clip(make_clip(p.with_name("e.mkv")), p, "-bsf:a", "noise=amount=0:drop=1"),
        "empty or cannot be decoded",
    ),
    "early.mkv": (lambda p: shifted(p, picture_s=100), "outside the picture's time"),
    "late.mkv": (lambda p: shifted(p, sound_s=1.5), "outside the picture's time"),
    "mute.mp4": (lambda p: make_clip(p, *H264, sound=None), "no sound track"),
    "rate.mkv": (lambda p: at_rate(p, 8), "8 Hz: 4000 to 384000"),
}  # fmt: skip
"""{name: (how it is made, the reason at the door)}."""
UNHEARD = BROKEN | {
    "end.mkv": (lambda p: shifted(p, sound_s=0.9), "too short: 0.1. s of sound"),
    "short.mp4": (
        lambda p: make_clip(p, *H264, "-c:a", "aac", sound=None, inputs=["-f", "lavfi", "-t", "0.1", "-i", "sine"]),
        "too short: 0.1. s of sound",
    ),
    "silent.mp4": (lambda p: make_clip(p, sound="anullsrc"), "silent throughout"),
}
"""With those in which there is sound, but none to go by."""
