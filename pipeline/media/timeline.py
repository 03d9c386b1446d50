"""When each picture of a clip is shown, and what the file says about itself: from its packets and its first picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoder.container import DISCARD, KEY, NO_STAMP, UNSEEN
from pipeline.media.files import MediaError
from pipeline.media.process import MAX_PICTURES, longest_s, nonsense, reading
from pipeline.media.told import AudioInfo, Told, check_told

_SOUGHT_BY_DTS = {"mpeg", "mpegts"}
"""Formats without an index: their readers look for the packet that is decoded at the time that is asked for."""
_AROUND, _STRAY_S, _STRAY_STEPS = 15, 10.0, 20
"""So many packets on each side are looked at; a stamp may be so far off, and so many of the usual steps."""


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
    stamps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    """(pictures,) when each is shown as the file says, in ticks; NO_STAMP where it does not (AVI with B-frames)."""
    keys: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64), repr=False)
    """(keys, 2): the pictures at which decoding can begin, as the file says: number, where to jump to (ticks)."""
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
    told = check_told(header, Told)
    pictures = parse_packets(rows, told)
    if len(pictures.pts_s) == 0:
        raise MediaError("no picture: the video stream is empty")
    pts = pictures.pts_s[pictures.order]
    steps = np.diff(pts)
    step = float(np.median(steps)) if len(steps) else float(pictures.durations_s[0])
    times = pts - pts[0]
    times = times[times <= longest_s()]
    duration = min(float(times[-1]) + max(step, 0.0), longest_s())
    shown = float(pts[0]) + (_moved_s(path, pictures) if pictures.hidden else 0.0)
    return Probe(
        **told.model_dump(exclude={"tick_s", "start_s", "audio"}),
        duration_s=duration,
        fps=1 / step if step > 0 else 0.0,
        audio=told.audio,
        times_s=times,
        origin_s=float(pts[0]),
        shown_s=shown,
        stamps=pictures.stamps[: len(times)],
        keys=pictures.keys,
    )


def _moved_s(path: Path, pictures: Packets) -> float:
    """How much later than its stamp the first picture is shown: less than a picture's time."""
    header, blocks = _list_packets(path, advanced_editlist="0")
    plain = parse_packets(blocks["packets"], check_told(header, Told))
    if len(plain.pts_s) != len(pictures.pts_s) + pictures.hidden:
        return 0.0  # several edits: each may be moved on its own
    moved = float(plain.pts_s[pictures.hidden] - pictures.pts_s[0])
    return moved if 0 < moved < pictures.durations_s[0] else 0.0


@dataclass(frozen=True)
class Packets:
    """What is listed of the pictures that are shown: (pictures,) each."""

    pts_s: NDArray[np.float64]
    """When each is shown, in the order of decoding."""
    durations_s: NDArray[np.float64]
    order: NDArray[np.int64]
    """The order in which they are shown."""
    stamps: NDArray[np.int64]
    """In that order, the file's own stamp (ticks), or NO_STAMP."""
    hidden: int
    """So many more are hidden by an edit list."""
    keys: NDArray[np.int64]
    """(keys, 2): of those at which decoding can begin, the place in that order, and where to jump to (ticks).

    None where packets lack stamps."""


def parse_packets(rows: memoryview, told: Told) -> Packets:
    """The listed packets that are a picture and are shown; MediaError where nothing says when."""
    if len(rows) % 32 or len(rows) > 32 * MAX_PICTURES:
        raise nonsense()
    table = np.frombuffer(rows, np.int64).reshape(-1, 4)
    pts, dts, durations, flags = table[(table[:, 3] & UNSEEN) == 0].T
    shown = (flags & DISCARD) == 0
    times = _times(pts, dts, durations, stray=stray_stamps(pts, told.tick_s)) if len(pts) else pts.astype(float)
    order = np.argsort(times[shown], kind="stable")
    ascending = times[shown][order]
    # Where packets lack stamps, `times` are right as a set only, and a stamp belongs to the picture of that time.
    given = np.flatnonzero(shown & (pts != NO_STAMP))
    complete = not (pts == NO_STAMP).any()
    places = np.empty(len(pts), np.int64)
    places[np.flatnonzero(shown)[order]] = np.arange(len(order))
    if not complete and len(given):
        places[given] = np.searchsorted((ascending[:-1] + ascending[1:]) / 2, pts[given])
    stamps = np.full(len(order), NO_STAMP, np.int64)
    stamps[places[given]] = pts[given]
    keys = given[((flags[given] & KEY) != 0) & complete]
    return Packets(
        pts_s=times[shown] * told.tick_s,
        durations_s=durations[shown] * told.tick_s,
        order=order,
        stamps=stamps,
        hidden=int((~shown).sum()),
        keys=_jumps(places[keys], dts[keys], stamps, by_dts=told.container in _SOUGHT_BY_DTS),
    )


def _times(
    pts: NDArray[np.int64], dts: NDArray[np.int64], durations: NDArray[np.int64], *, stray: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(packets,) ticks at which each is shown. Where some do not say: all times are right, but not whose they are."""
    missing = pts == NO_STAMP
    if not missing.any():
        return _filled(pts, ~stray, durations)
    # MPEG streams give stamps to some packets only. All are shown in the rhythm in which they are decoded.
    rhythm = _filled(np.where(dts == NO_STAMP, pts, dts), ~stray & ((dts != NO_STAMP) | ~missing), durations)
    both = np.flatnonzero(~missing & ~stray & (dts != NO_STAMP))
    return rhythm + ((pts - dts)[both[0]] if len(both) else 0)


def _filled(stamps: NDArray[np.int64], known: NDArray[np.bool_], durations: NDArray[np.int64]) -> NDArray[np.float64]:
    """The stamps, with those that are not known laid between and behind the others in proportion to the durations."""
    if known.all():
        return stamps.astype(float)
    at = np.cumsum(durations, dtype=float) - durations if (durations > 0).all() else np.arange(len(stamps), dtype=float)
    places, values = at[known], stamps[known].astype(float)
    if len(places) == 0 or (len(places) == 1 and (durations <= 0).any()):
        raise MediaError("the file does not say when its pictures are shown: it has no time stamps")
    pace = (values[-1] - values[0]) / (places[-1] - places[0]) if len(places) > 1 else 1.0
    beyond = np.minimum(at - places[0], 0) + np.maximum(at - places[-1], 0)
    return np.asarray(np.interp(at, places, values) + beyond * pace)


def stray_stamps(pts: NDArray[np.int64], tick_s: float) -> NDArray[np.bool_]:
    """(packets,) whether a stamp is far from those around it on both sides: no picture is shown then."""
    given = np.flatnonzero(pts != NO_STAMP)
    stamps = pts[given]
    found = np.zeros(len(pts), bool)
    steps = np.abs(np.diff(stamps))
    reach = min(_AROUND, (len(stamps) - 1) // 2)
    limit = max(_STRAY_S / tick_s, _STRAY_STEPS * float(np.median(steps))) if len(steps) else math.inf
    if reach < 1 or steps.max() <= limit:
        return found
    around = np.lib.stride_tricks.sliding_window_view(np.pad(stamps, reach, mode="reflect"), 2 * reach + 1)
    middles = np.pad(np.median(around, axis=1), reach, mode="edge")
    # Behind a pause, too, stamps are far from those before.
    off = [np.abs(stamps - middles[shift : shift + len(stamps)]) for shift in (0, reach, 2 * reach)]
    found[given] = np.min(off, axis=0) > limit
    return found


def _jumps(
    numbers: NDArray[np.int64], dts: NDArray[np.int64], stamps: NDArray[np.int64], *, by_dts: bool
) -> NDArray[np.int64]:
    """(keys, 2): the keys' numbers, ascending, and the stamps to jump to."""
    order = np.argsort(numbers, kind="stable")
    numbers, dts = numbers[order], dts[order]
    if by_dts:
        known = dts != NO_STAMP
        return np.stack([numbers[known], dts[known]], axis=1)
    # MP4's reader takes a key of an open group for shown later than it is: so not to its own stamp, but a little on;
    # not far on either, for what comes next in the file may be the next key, which is decoded before it is shown.
    ahead = (np.append(numbers[1:], len(stamps)) - numbers) // 4
    return np.stack([numbers, stamps[numbers + ahead]], axis=1)
