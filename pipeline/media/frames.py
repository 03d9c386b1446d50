"""The pictures of a clip: full-resolution ones at given times and small ones of whole spans, from one decode."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from pipeline.media import process as limits
from pipeline.media.files import MediaError
from pipeline.media.process import MAX_SECONDS, Process, content, media_input, memory_files, run, too_long
from pipeline.media.timeline import Probe, parse_packets, probe

MAX_FRAME_HEIGHT_PX = 1080
"""Taller pictures are scaled down to it: no crop needs more, and memory stays bounded."""
Span = tuple[float, float]
_COARSE = {"skip_frame": "noref", "skip_loop_filter": "all"}
"""Without the pictures that no other refers to, and unsmoothed: enough to find faces, in half the time."""
_TICK_HZ = 90000
"""Of the frames' time stamps."""


@dataclass(frozen=True)
class Frames:
    """Pictures and when each is shown, on the clip's clock: 0 s is the first picture."""

    times_s: NDArray[np.float64]
    """(N,)"""
    pixels: NDArray[np.uint8] = field(repr=False)
    """(N, H, W, 3) RGB"""


def read_frames(path: Path, times_s: Sequence[float]) -> Frames:
    """Row i: the picture whose time is nearest to times_s[i], at full resolution (at most MAX_FRAME_HEIGHT_PX high).

    Raises MediaError when nothing can be decoded.
    """
    found = probe(path)
    size = _scaled(found, MAX_FRAME_HEIGHT_PX)
    with memory_files(2) as files:
        pixels, stamps = (file.fileno() for file in files)
        chosen = _input_to(path, found, max(times_s)).filter("select", _Stamps(found).nearest(times_s))
        run(*_outputs(chosen, found, size, pixels, stamps), pass_fds=[pixels, stamps])
        return _nearest(_read_back(files, size, found), times_s)


class Video:
    """One decode that is under way: first the small pictures, one batch after the other, then the full ones."""

    def __init__(self, found: Probe, small_height_px: int, full_at_s: Sequence[float]) -> None:
        self.probe = found
        self.small_size_px = _scaled(found, small_height_px)
        """(width, height)"""
        self.full_size_px = _scaled(found, MAX_FRAME_HEIGHT_PX)
        """(width, height)"""
        self._full_at_s = full_at_s

    def _start(self, stack: contextlib.ExitStack, path: Path, spans_s: Sequence[Span] | None, small_every: int) -> None:
        read_end, write_end = os.pipe()
        self._pipe = stack.enter_context(os.fdopen(read_end, "rb", buffering=0))
        self._small_stamps, *self._full_files = stack.enter_context(memory_files(3))
        fds = [write_end, *(file.fileno() for file in (self._small_stamps, *self._full_files))]
        last_s = max([*self._full_at_s, *(end for _, end in spans_s)]) if spans_s is not None else MAX_SECONDS
        coarse = _COARSE if not self._full_at_s and self.probe.stamped else {}
        split = _input_to(path, self.probe, last_s, **coarse).filter_multi_output("split", 2)
        stamps = _Stamps(self.probe)
        inside = stamps.within(spans_s) if spans_s is not None else "1"
        small = split[0].filter("select", f"not(mod(n,{small_every}))*({inside})" if small_every > 1 else inside)
        full = split[1].filter("select", stamps.nearest(self._full_at_s))
        try:
            outputs = [
                *_outputs(small, self.probe, self.small_size_px, fds[0], fds[1]),
                *_outputs(full, self.probe, self.full_size_px, fds[2], fds[3]),
            ]
            self._process = Process(outputs, fds)
        finally:
            os.close(write_end)
        stack.callback(self._process.kill)

    def small(self, batch: int = 32) -> Iterator[Frames]:
        """The pictures inside the spans, in order; each batch is new memory."""
        width, height = self.small_size_px
        frame_bytes = width * height * 3
        seen = 0
        while data := self._read(batch * frame_bytes):
            count = len(data) // frame_bytes
            if count == 0:
                break  # the rest of a picture that was cut off
            pixels = np.frombuffer(data, np.uint8)[: count * frame_bytes].reshape(count, height, width, 3)
            times = self._stamps(seen, count)
            yield Frames(times, pixels[: len(times)])
            seen += count
        self._process.wait()
        if seen == 0:
            raise _nothing(self._process)

    def full(self, first: int = 0, last: int | None = None) -> Frames:
        """Row i: the picture nearest to full_at_s[first + i], up to `last` (None: all), which is not among them.

        Call it when `small` has come to its end.
        """
        frames = _read_back(self._full_files, self.full_size_px, self.probe)
        return _nearest(frames, self._full_at_s[first:last])

    def _read(self, size: int) -> bytearray:
        data = bytearray()
        while len(data) < size:
            ready, _, _ = select.select([self._pipe], [], [], limits.WALL_SECONDS)
            if not ready:
                raise too_long()
            piece = os.read(self._pipe.fileno(), min(size - len(data), 1 << 20))
            if not piece:
                break
            data += piece
        return data

    def _stamps(self, first: int, count: int) -> NDArray[np.float64]:
        """The listing runs beside the pictures: it may be a moment behind them."""
        patience = time.monotonic() + limits.WALL_SECONDS
        while True:
            ended = self._process.popen.poll() is not None
            listed = os.pread(self._small_stamps.fileno(), 1 << 26, 0).decode("ascii", "replace")
            stamps = parse_packets(listed[: listed.rfind("\n") + 1], stream=0).pts_s
            if len(stamps) >= first + count or ended or time.monotonic() > patience:
                return _Stamps(self.probe).times_s(stamps[first : first + count])
            time.sleep(0.001)


@contextmanager
def open_video(
    path: Path,
    *,
    full_at_s: Sequence[float],
    small_height_px: int,
    spans_s: Sequence[Span] | None = None,
    small_every: int = 1,
    found: Probe | None = None,
) -> Iterator[Video]:
    """A `Video`: pictures inside `spans_s` (None: all), at most `small_height_px` high, and full ones at `full_at_s`.

    Every `small_every`-th picture of the clip is taken. Where no full ones are wanted, B-frames that no other picture
    refers to are not decoded at all, and blocks are not smoothed. found: what `probe` says, where it is known.
    ffmpeg decodes while the caller works, and is gone when the block ends. Raises MediaError.
    """
    video = Video(found or probe(path), small_height_px, full_at_s)
    with contextlib.ExitStack() as stack:
        video._start(stack, path, spans_s, small_every)
        yield video


def _input_to(path: Path, found: Probe, last_s: float, **options: str) -> Any:
    """The pictures up to `last_s` and a few more: no picture is decoded after it is shown."""
    before_s = -min(found.audio.start_s, 0) if found.audio else 0.0
    pictures = media_input(path, seconds=before_s + last_s + 0.5 + 2 / max(found.fps, 0.1), **options)["V:0"]
    return pictures if found.stamped else pictures.filter("setpts", "N/TB")


def _outputs(pictures: Any, found: Probe, size: tuple[int, int], pixels_fd: int, stamps_fd: int) -> list[Any]:
    """The pixels of the chosen pictures, and beside them a list of their time stamps."""
    split = pictures.filter_multi_output("split", 2)
    options = {"fps_mode": "passthrough", "enc_time_base": f"1/{_TICK_HZ}", "c": "rawvideo"}
    # What keeps its size is only turned into RGB, as ffmpeg does by itself; the filter still guards the size.
    unchanged = size == (found.width_px, found.height_px)
    shown = split[0].filter("scale", *size, flags="bicubic" if unchanged else "area")
    # framecrc sums up what it lists: a thumbnail costs nothing.
    listed = split[1].filter("scale", 8, 8, flags="neighbor")
    return [
        ffmpeg.output(shown, f"pipe:{pixels_fd}", f="rawvideo", pix_fmt="rgb24", **options),
        ffmpeg.output(listed, f"pipe:{stamps_fd}", f="framecrc", pix_fmt="gray", **options),
    ]


def _scaled(found: Probe, height_px: int) -> tuple[int, int]:
    height = min(height_px, found.height_px)
    return max(1, round(found.width_px * height / found.height_px)), height


class _Stamps:
    """The decoded pictures' stamps, seconds: the file's own, or the pictures' numbers where it has none."""

    def __init__(self, found: Probe) -> None:
        self._times_s, self._stamped, self._origin_s = found.times_s, found.stamped, found.origin_s
        stamps = found.times_s + found.origin_s if found.stamped else np.arange(len(found.times_s), dtype=float)
        self._middles = (stamps[:-1] + stamps[1:]) / 2

    def nearest(self, times_s: Sequence[float]) -> str:
        """An expression that is true for the picture nearest to each time, and no other.

        It is the first one behind the middle between it and its forerunner, whatever rounding its stamp has.
        """
        between_s = (self._times_s[:-1] + self._times_s[1:]) / 2
        marks = [self._mark(i) for i in np.unique(np.searchsorted(between_s, np.asarray(times_s, float)))]
        return "+".join(f"gte(t,{mark:.6f})*(isnan(prev_t)+lt(prev_t,{mark:.6f}))" for mark in marks) or "0"

    def within(self, spans_s: Sequence[Span]) -> str:
        """An expression that is true for the pictures shown inside the spans."""
        terms = []
        for start_s, end_s in spans_s:
            first = int(np.searchsorted(self._times_s, start_s))
            behind = int(np.searchsorted(self._times_s, end_s, side="right"))
            if first < behind:
                terms.append(f"between(t,{self._mark(first):.6f},{self._mark(behind):.6f})")
        return "+".join(terms) or "0"

    def times_s(self, stamps: NDArray[np.float64]) -> NDArray[np.float64]:
        """(pictures,) on the clip's clock."""
        if self._stamped:
            return stamps - self._origin_s
        found: NDArray[np.float64] = self._times_s[np.clip(np.rint(stamps).astype(int), 0, len(self._times_s) - 1)]
        return found

    def _mark(self, picture: int) -> float:
        """A stamp between the picture and its forerunner."""
        if picture == 0:
            return -1e6
        return float(self._middles[picture - 1]) if picture <= len(self._middles) else 1e9


def _read_back(files: Sequence[IO[bytes]], size: tuple[int, int], found: Probe) -> Frames:
    pixels_file, stamps_file = files
    times = _Stamps(found).times_s(parse_packets(content(stamps_file).decode("ascii", "replace"), stream=0).pts_s)
    width, height = size
    frame_bytes = width * height * 3
    count = min(len(times), os.fstat(pixels_file.fileno()).st_size // frame_bytes)
    if count == 0:
        raise MediaError("no picture could be decoded")
    pixels = np.memmap(pixels_file, np.uint8, "r", shape=(count, height, width, 3))
    return Frames(times[:count], pixels)


def _nearest(frames: Frames, times_s: Sequence[float]) -> Frames:
    nearest = np.abs(frames.times_s[None, :] - np.asarray(times_s, float)[:, None]).argmin(axis=1)
    return Frames(frames.times_s[nearest], np.asarray(frames.pixels[nearest]))


def _nothing(process: Process) -> MediaError:
    if process.popen.returncode < 0 or "\nOutput #0" not in process.log():
        return process.error()
    return MediaError("no picture could be decoded")
