"""The pictures of a clip: full-resolution ones at given times and small ones of whole spans, from one decode."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pipeline.media.files import MediaError
from pipeline.media.process import Process, memory_files, nonsense, reading
from pipeline.media.timeline import Probe, probe

MAX_FRAME_HEIGHT_PX = 1080  # taller pictures are scaled down to it: no crop needs more, and memory stays bounded
_PIPE_BYTES = 1 << 20
"""So much of the small pictures waits to be read: with the usual 64 KiB both sides mostly wait for each other."""
Span = tuple[float, float]
_Wanted = tuple[tuple[int, int], NDArray[np.bool_]]
"""(width, height), and of every picture whether it is wanted in that size."""


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
        outputs = [file.fileno() for file in files]
        with _reading(path, found, outputs, (size, _nearest(found, times_s))) as process:
            process.result()
        return _choose(_read_back(files, size, found), times_s)


class Video:
    """One decode that is under way: first the small pictures, one batch after the other, then the full ones."""

    def __init__(
        self, stack: contextlib.ExitStack, path: Path, found: Probe, small: _Wanted, full_at_s: Sequence[float]
    ) -> None:
        self.probe, self._full_at_s = found, full_at_s
        self.small_size_px, self._full_size_px = small[0], _scaled(found, MAX_FRAME_HEIGHT_PX)
        """(width, height)"""
        read_end, write_end = os.pipe()
        with contextlib.suppress(OSError, AttributeError):  # more than a user may have, or no Linux
            fcntl.fcntl(read_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._pipe = stack.enter_context(os.fdopen(read_end, "rb", buffering=0))
        with os.fdopen(write_end, "wb", buffering=0):
            self._small_numbers, *self._full_files = stack.enter_context(memory_files(3))
            outputs = [self._small_numbers.fileno(), write_end, *(file.fileno() for file in self._full_files)]
            full = (self._full_size_px, _nearest(found, full_at_s))
            self._process = stack.enter_context(_reading(path, found, outputs, small, full))

    def small(self, batch: int = 32) -> Iterator[Frames]:
        """The pictures inside the spans, in order, the first alone; each batch is new memory."""
        width, height = self.small_size_px
        frame_bytes = width * height * 3
        seen, last = 0, -1
        while (data := self._read((batch if seen else 1) * frame_bytes)).size:
            count = len(data) // frame_bytes
            if count == 0:
                break  # the decoder was killed: the answer says why
            pixels = data[: count * frame_bytes].reshape(count, height, width, 3)
            # A picture's number is written before its pixels.
            numbers = _read_numbers(self._small_numbers, seen, count, last, self.probe)
            yield Frames(self.probe.times_s[numbers], pixels)
            seen, last = seen + count, int(numbers[-1])
        self._process.result()
        if seen == 0:
            raise MediaError("no picture could be decoded")

    def full(self, first: int = 0, last: int | None = None) -> Frames:
        """Row i: the picture nearest to full_at_s[first + i], up to `last` (None: all), which is not among them.

        Call it when `small` has come to its end.
        """
        frames = _read_back(self._full_files, self._full_size_px, self.probe)
        return _choose(frames, self._full_at_s[first:last])

    def _read(self, size: int) -> NDArray[np.uint8]:
        data, read = bytearray(size), 0
        while read < size:
            self._process.wait_for(self._pipe.fileno())
            more = os.readv(self._pipe.fileno(), [memoryview(data)[read:]])
            if not more:
                break
            read += more
        return np.frombuffer(data, np.uint8)[:read]


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

    Every `small_every`-th picture of the clip is taken. found: what `probe` says, where it is known. The decoder works
    while the caller does, and is gone when the block ends. Raises MediaError.
    """
    found = found or probe(path)
    small = (_scaled(found, small_height_px), _within(found, spans_s, small_every))
    with contextlib.ExitStack() as stack:
        yield Video(stack, path, found, small, full_at_s)


@contextmanager
def _reading(path: Path, found: Probe, outputs: Sequence[int], *sizes: _Wanted) -> Iterator[Process]:
    """The decoder, writing the numbers of each size's wanted pictures and their pixels to two of the outputs."""
    # What keeps its size is only turned into RGB, as ffmpeg does by itself.
    scaling = ["bicubic" if size == (found.width_px, found.height_px) else "area" for size, _ in sizes]
    request = {"sizes": [(*size, how, found.matrix) for (size, _), how in zip(sizes, scaling, strict=True)]}
    blocks = {f"wanted{i}": wanted.tobytes() for i, (_, wanted) in enumerate(sizes)}
    stamps, keys = found.stamps.tobytes(), found.keys.tobytes()
    with reading("read_pictures", path, outputs, request, stamps=stamps, keys=keys, **blocks) as it:
        yield it


def _nearest(found: Probe, times_s: Sequence[float]) -> NDArray[np.bool_]:
    """(pictures,) whether it is the nearest to one of the times."""
    wanted = np.zeros(len(found.times_s), bool)
    middles = (found.times_s[:-1] + found.times_s[1:]) / 2
    wanted[np.searchsorted(middles, np.asarray(times_s, float))] = True
    return wanted


def _within(found: Probe, spans_s: Sequence[Span] | None, every: int) -> NDArray[np.bool_]:
    """(pictures,) whether it is an `every`-th that is shown inside the spans."""
    inside: NDArray[np.bool_] = np.full(len(found.times_s), spans_s is None)
    for start_s, end_s in spans_s or ():
        inside[np.searchsorted(found.times_s, start_s) : np.searchsorted(found.times_s, end_s, side="right")] = True
    inside[np.arange(len(inside)) % every != 0] = False
    return inside


def _scaled(found: Probe, height_px: int) -> tuple[int, int]:
    height = min(height_px, found.height_px)
    return max(1, round(found.width_px * height / found.height_px)), height


def _read_back(files: Sequence[IO[bytes]], size: tuple[int, int], found: Probe) -> Frames:
    numbers_file, pixels_file = files
    count = os.fstat(numbers_file.fileno()).st_size // 8
    if count == 0:
        raise MediaError("no picture could be decoded")
    numbers = _read_numbers(numbers_file, 0, count, -1, found)
    width, height = size
    if os.fstat(pixels_file.fileno()).st_size != count * height * width * 3:
        raise nonsense()
    return Frames(found.times_s[numbers], np.memmap(pixels_file, np.uint8, "r", shape=(count, height, width, 3)))


def _read_numbers(file: IO[bytes], begin: int, count: int, last: int, found: Probe) -> NDArray[np.int64]:
    """`count` of the decoder's numbers of pictures, ascending from behind `last`; MediaError where they are none."""
    pictures = len(found.times_s)
    data = os.pread(file.fileno(), 8 * count, 8 * begin) if count <= pictures else b""
    numbers = np.frombuffer(data, np.int64) if len(data) == 8 * count else np.zeros(0, np.int64)
    if len(numbers) == 0 or numbers[0] <= last or (numbers[1:] <= numbers[:-1]).any() or numbers[-1] >= pictures:
        raise nonsense()
    return numbers


def _choose(frames: Frames, times_s: Sequence[float]) -> Frames:
    nearest = np.abs(frames.times_s[None, :] - np.asarray(times_s, float)[:, None]).argmin(axis=1)
    return Frames(frames.times_s[nearest], np.asarray(frames.pixels[nearest]))
