"""When each picture of a clip is shown, and what the file says about itself: from its packets and its first picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoder.container import DISCARD, KEY, NO_STAMP
from pipeline.media.files import MediaError
from pipeline.media.process import MAX_SECONDS, reading


@dataclass(frozen=True)
class AudioInfo:
    """The first sound track, as the headers describe it."""

    codec: str
    sample_rate_hz: int
    channels: str
    """The layout's name: mono, stereo, 5.1, "8 channels"."""


@dataclass(frozen=True)
class Probe:
    """A clip as its packets and its first picture tell it (headers may lie)."""

    container: str
    """The format's name, as "mov,mp4,m4a,3gp,3g2,mj2"."""
    codec: str
    duration_s: float
    """From the first picture to the end of the last."""
    fps: float
    """1 / the usual step from picture to picture; 0 where there is only one."""
    width_px: int
    height_px: int
    """As shown: turned as the file asks for, with square pixels."""
    n_audio: int
    audio: AudioInfo | None
    times_s: NDArray[np.float64] = field(repr=False)
    """(pictures,) when each is shown, ascending from 0."""
    origin_s: float = 0.0
    """The first picture's stamp in the file."""
    shown_s: float = 0.0
    """The same, but exact: the reader moves the first picture behind an edit list's cut onto the cut."""
    stamped: bool = True
    """Whether packets say when they are shown. In AVI with B-frames they do not: only their order counts."""
    keys: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64), repr=False)
    """(keys, 2): the pictures at which decoding can begin: number, stamp in ticks."""
    pixel_aspect: float = 1.0
    """Width to height of a pixel as it is coded."""
    transfer: str | None = None
    """From light to signal, as the first picture names it: "bt709", "smpte2084" (PQ), "unspecified"."""
    bit_depth: int | None = None
    """Of a picture's samples."""
    interlaced: bool | None = None
    """Whether the first picture consists of two fields."""
    matrix: tuple[int, ...] = ()
    """The first picture's display matrix; () where it is shown as it is coded."""


def probe(path: Path) -> Probe:
    """The clip's timeline and streams; raises MediaError when there is no picture."""
    header, blocks = _list_packets(path)
    return describe(path, header, blocks["packets"])


def _list_packets(path: Path, **options: str) -> tuple[dict[str, Any], dict[str, memoryview]]:
    with reading("list_packets", path, [], {"options": options}) as process:
        return process.result()


def describe(path: Path, header: dict[str, Any], rows: memoryview) -> Probe:
    """What the decoder told of the file; raises MediaError when there is no picture in it."""
    pictures = parse_packets(rows, header)
    if len(pictures.pts_s) == 0:
        raise MediaError("no picture: the video stream is empty")
    pts = np.sort(pictures.pts_s)
    steps = np.diff(pts)
    step = float(np.median(steps)) if len(steps) else float(pictures.durations_s[0])
    times = pts - pts[0]
    times = times[times <= MAX_SECONDS]
    duration = float(times[-1]) + max(step, 0.0)
    shown = float(pts[0]) + (_moved_s(path, pictures) if pictures.hidden else 0.0)
    return Probe(
        container=header["container"],
        codec=header["codec"],
        duration_s=duration,
        fps=1 / step if step > 0 else 0.0,
        width_px=header["width_px"],
        height_px=header["height_px"],
        n_audio=header["n_audio"],
        audio=AudioInfo(**header["audio"]) if header["audio"] else None,
        times_s=times,
        origin_s=float(pts[0]),
        shown_s=shown,
        stamped=pictures.stamped,
        keys=pictures.keys if pictures.stamped else np.zeros((0, 2), np.int64),
        **{name: header[name] for name in ("pixel_aspect", "transfer", "bit_depth", "interlaced")},
        matrix=tuple(header["matrix"]),
    )


def _moved_s(path: Path, pictures: Packets) -> float:
    """How much later than its stamp the first picture is shown: less than a picture's time."""
    header, blocks = _list_packets(path, advanced_editlist="0")
    plain = parse_packets(blocks["packets"], header)
    if len(plain.pts_s) != len(pictures.pts_s) + pictures.hidden:
        return 0.0  # several edits: each may be moved on its own
    moved = float(plain.pts_s[pictures.hidden] - pictures.pts_s[0])
    return moved if 0 < moved < pictures.durations_s[0] else 0.0


@dataclass(frozen=True)
class Packets:
    """What is listed of the picture's track: (packets,) each."""

    pts_s: NDArray[np.float64]
    durations_s: NDArray[np.float64]
    stamped: bool
    """Whether any has a time of presentation; else `pts_s` are times of decoding."""
    hidden: int
    """So many more are hidden by an edit list."""
    keys: NDArray[np.int64]
    """(keys, 2): of the packets at which decoding can begin, the place among the sorted `pts_s`, and pts in ticks."""


def parse_packets(rows: memoryview, header: dict[str, Any]) -> Packets:
    """The listed packets that have a time stamp and are shown."""
    tick_s = header["tick_s"]
    pts, dts, durations, flags = np.frombuffer(rows, np.int64).reshape(-1, 4).T
    missing = pts == NO_STAMP
    both = np.flatnonzero(~missing & (dts != NO_STAMP))
    if missing.any() and len(both):
        # MPEG streams give a pts to some packets only. All are shown in the rhythm in which they are decoded.
        pts = np.where(dts == NO_STAMP, pts, dts + (pts - dts)[both[0]])
    elif missing.all():
        pts = dts
    hidden = (flags & DISCARD) != 0
    kept = (pts != NO_STAMP) & ~hidden
    begins = np.sort(pts[kept & ((flags & KEY) != 0)])
    return Packets(
        pts_s=pts[kept] * tick_s,
        durations_s=durations[kept] * tick_s,
        stamped=not missing.all(),
        hidden=int(hidden.sum()),
        keys=np.stack([np.searchsorted(np.sort(pts[kept]), begins), begins], axis=1),
    )
