"""When each picture of a clip is shown, and what the file says about itself: from its packets, nothing is decoded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from pipeline.media.files import MediaError
from pipeline.media.process import MAX_PIXELS, MAX_SECONDS, MAX_STREAMS, content, media_input, memory_files, run


@dataclass(frozen=True)
class AudioInfo:
    """The first sound track. `start_s` on the clip's clock: positive where it starts after the picture."""

    codec: str
    sample_rate_hz: int
    channels: str
    """ffmpeg's name of the layout: mono, stereo, 5.1, "8 channels"."""
    start_s: float
    duration_s: float
    bit_rate_bps: float


@dataclass(frozen=True)
class Probe:
    """A clip as its packets tell it (headers may lie)."""

    container: str
    """ffmpeg's name of the format, as "mov,mp4,m4a,3gp,3g2,mj2"."""
    codec: str
    duration_s: float
    """From the first picture to the end of the last."""
    fps: float
    """1 / the usual step from picture to picture; 0 where there is only one."""
    width_px: int
    height_px: int
    """As shown: turned as the file asks for."""
    bit_rate_bps: float
    """Of the whole file."""
    n_streams: int
    n_audio: int
    audio: AudioInfo | None
    times_s: NDArray[np.float64] = field(repr=False)
    """(pictures,) when each is shown, ascending from 0."""
    origin_s: float = 0.0
    """ffmpeg's time stamp of the first picture."""
    shown_s: float = 0.0
    """The same, but exact: ffmpeg moves the first picture behind an edit list's cut onto the cut."""
    stamped: bool = True
    """Whether packets say when they are shown. In AVI with B-frames they do not: only their order counts."""

    @property
    def has_audio(self) -> bool:
        """Whether there is a sound track."""
        return self.audio is not None


def probe(path: Path) -> Probe:
    """The clip's timeline and streams; raises MediaError when there is no picture."""
    return describe(path, *_list_packets(path))


def _list_packets(path: Path, **options: Any) -> tuple[str, str]:
    with memory_files(1) as (packets,):
        fd = packets.fileno()
        log = run(packet_output(media_input(path, **options), fd, "a:0?"), pass_fds=[fd])
        return content(packets).decode("ascii", "replace"), log


def packet_output(source: Any, fd: int, *more: str) -> Any:
    """The ffmpeg-python node that lists the picture's packets (and those of `more` streams) into `fd`."""
    streams = (source[name] for name in ("V:0", *more))
    return ffmpeg.output(*streams, f"pipe:{fd}", c="copy", copypriorss=1, f="framecrc")


def describe(path: Path, text: str, log: str) -> Probe:
    """What `packet_output` listed in `text`; raises MediaError when there is no picture in it."""
    head = dict(re.findall(r"^#(\w+ \d+): (.*)$", text, flags=re.MULTILINE))
    pictures = parse_packets(text, stream=0)
    size = re.fullmatch(r"(\d+)x(\d+)", head.get("dimensions 0", ""))
    if size is None or len(pictures.pts_s) == 0:
        raise MediaError("no picture: the video stream is empty")
    width, height = int(size[1]), int(size[2])
    refused = re.search(r"Picture size (\d+x\d+) exceeds", log)
    if refused is not None or not 0 < width * height <= MAX_PIXELS:
        told = refused[1] if refused else f"{width}x{height}"
        raise MediaError(f"the picture is {told}: more than {MAX_PIXELS} pixels, or none")
    stated = log.partition("\nStream mapping:")[0]  # of the input alone
    kinds = re.findall(r"^  Stream #0:\d+.*?: (\w+):", stated, flags=re.MULTILINE)
    if len(kinds) > MAX_STREAMS:
        raise MediaError(f"the file has more than {MAX_STREAMS} streams")
    turn = re.search(r"display ?matrix: rotation of (-?[\d.]+) degrees", stated, flags=re.IGNORECASE)
    if turn is not None and round(float(turn[1])) % 180 == 90:
        width, height = height, width
    pts = np.sort(pictures.pts_s)
    steps = np.diff(pts)
    step = float(np.median(steps)) if len(steps) else float(pictures.durations_s[0])
    times = pts - pts[0]
    times = times[times <= MAX_SECONDS]
    duration = float(times[-1]) + max(step, 0.0)
    shown = float(pts[0]) + (_moved_s(path, pictures) if pictures.hidden else 0.0)
    container = re.search(r"^Input #0, (\S+), from", stated, flags=re.MULTILINE)
    return Probe(
        container=container[1] if container else "",
        codec=head.get("codec_id 0", ""),
        duration_s=duration,
        fps=1 / step if step > 0 else 0.0,
        width_px=width,
        height_px=height,
        bit_rate_bps=path.stat().st_size * 8 / max(duration, 1e-3),
        n_streams=len(kinds),
        n_audio=kinds.count("Audio"),
        audio=_audio(text, head, shown),
        times_s=times,
        origin_s=float(pts[0]),
        shown_s=shown,
        stamped=pictures.stamped,
    )


def _moved_s(path: Path, pictures: Packets) -> float:
    """How much later than ffmpeg says the first picture is shown: less than a picture's time."""
    plain = parse_packets(_list_packets(path, advanced_editlist=0)[0], stream=0)
    if len(plain.pts_s) != len(pictures.pts_s) + pictures.hidden:
        return 0.0  # several edits: each may be moved on its own
    moved = float(plain.pts_s[pictures.hidden] - pictures.pts_s[0])
    return moved if 0 < moved < pictures.durations_s[0] else 0.0


def _audio(text: str, head: dict[str, str], origin_s: float) -> AudioInfo | None:
    if head.get("media_type 1") != "audio":
        return None
    packets = parse_packets(text, stream=1)
    start, end = 0.0, 0.0
    if len(packets.pts_s):
        start = float(packets.pts_s.min())
        end = float((packets.pts_s + packets.durations_s).max())
    duration = end - start
    return AudioInfo(
        codec=head.get("codec_id 1", ""),
        sample_rate_hz=int(head.get("sample_rate 1", "0")),
        channels=head.get("channel_layout_name 1", ""),
        start_s=start - origin_s,
        duration_s=duration,
        bit_rate_bps=float(packets.sizes.sum()) * 8 / duration if duration > 0 else 0.0,
    )


@dataclass(frozen=True)
class Packets:
    """What framecrc lists of one stream: (packets,) each."""

    pts_s: NDArray[np.float64]
    durations_s: NDArray[np.float64]
    sizes: NDArray[np.int64]
    stamped: bool
    """Whether any has a time of presentation; else `pts_s` are times of decoding."""
    hidden: int
    """So many more are hidden by an edit list."""


_NO_STAMP = -(2**63)
_DISCARD = 0x4
"""The flag of a packet that the decoder needs but an edit list hides."""


def parse_packets(text: str, *, stream: int) -> Packets:
    """The listed packets that have a time stamp and are shown."""
    tick = re.search(rf"^#tb {stream}: (\d+)/([1-9]\d*)$", text, flags=re.MULTILINE)
    tick_s = int(tick[1]) / int(tick[2]) if tick else 0.0
    # "0, dts, pts, duration, size, crc[, F=flags]".
    pattern = rf"^{stream},\s*(-?\d+|NOPTS),\s*(-?\d+|NOPTS),\s*(-?\d+),\s*(\d+), 0x\w+(?:, F=0x([0-9A-Fa-f]+))?"
    rows = [
        (*(_NO_STAMP if number == "NOPTS" else int(number) for number in numbers), int(flags or "0", 16) & _DISCARD)
        for *numbers, flags in re.findall(pattern, text, flags=re.MULTILINE)
    ]
    dts, pts, durations, sizes, hidden = np.array(rows, dtype=np.int64).reshape(-1, 5).T
    missing = pts == _NO_STAMP
    both = np.flatnonzero(~missing & (dts != _NO_STAMP))
    if missing.any() and len(both):
        # MPEG streams give a pts to some packets only. All are shown in the rhythm in which they are decoded.
        pts = np.where(dts == _NO_STAMP, pts, dts + (pts - dts)[both[0]])
    elif missing.all():
        pts = dts
    kept = (pts != _NO_STAMP) & (hidden == 0)
    return Packets(
        pts_s=pts[kept] * tick_s,
        durations_s=durations[kept] * tick_s,
        sizes=sizes[kept],
        stamped=not missing.all(),
        hidden=int((hidden != 0).sum()),
    )
