"""The chosen pictures of a track as RGB, in one size or several."""

from __future__ import annotations

import contextlib
import math
import os
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, cast

import av
from av.container import InputContainer
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.decoder.container import find_tracks, open_file
from pipeline.decoder.messages import Block, write_all

_NUMBER = struct.Struct("<q")
_JUMP_PICTURES = 24  # a jump is worth about so many decoded pictures


def read_pictures(request: dict[str, Any], fd: int, *outputs: int) -> tuple[dict[str, Any], dict[str, Block]]:
    """Writes every wanted picture's number (int64) and then its pixels (rows of RGB) to the two outputs of its size.

    request: `sizes`, of each its width, its height and how to scale; `wanted0`, `wanted1`...: for each size a byte a
    picture, 1 where it is wanted. A picture that cannot be decoded is stood in for by the next. `middles_s` (float64):
    the stamps halfway between neighbouring pictures; pictures without stamps are counted instead. `keys` (int64):
    number and stamp (ticks) of the pictures at which decoding may begin, so that what is not wanted can be jumped over.
    `coarse`: whether some of the pictures are enough, and need not be fine.
    """
    sizes = [
        _Size(tuple(size), bytes(request[f"wanted{i}"]), *outputs[2 * i : 2 * i + 2])
        for i, size in enumerate(request["sizes"])
    ]
    keys = memoryview(bytes(request["keys"])).cast("q")
    numbers, stamps = keys[0::2].tolist(), keys[1::2].tolist()
    if not _read(request, fd, sizes, numbers, stamps):
        _read(request, fd, sizes, [], [])
    return {}, {}


def _read(request: dict[str, Any], fd: int, sizes: list[_Size], numbers: list[int], stamps: list[int]) -> bool:
    """Whether no jump went too far; what is taken stays taken."""
    middles = array("d", bytes(request["middles_s"])) if request["stamped"] else None
    with open_file(fd, request["limits"]) as container:
        video, _ = find_tracks(container, request["limits"])
        video.codec_context.thread_count = 1
        if request["coarse"]:  # without the pictures that no other refers to, and unsmoothed: enough to find faces
            video.codec_context.skip_frame = "NONREF"
            video.codec_context.options = {"skip_loop_filter": "all"}
        at, frames = -1, _numbered(container, video, middles, 0)
        while (wanted := min((size.next for size in sizes if size.next >= 0), default=-1)) >= 0:
            key = bisect_right(numbers, wanted) - 1
            jumps = key >= 0 and numbers[key] > at + _JUMP_PICTURES
            if jumps:
                container.seek(stamps[key], stream=video)
                frames = _numbered(container, video, middles, numbers[key])
            found = next(frames, None)
            if jumps and (found is None or found[0] > wanted):
                return False
            if found is None:
                return True
            at, frame = found
            for size in sizes:
                size.take(at, frame)
    return True


def _numbered(
    container: InputContainer, video: VideoStream, middles: array[float] | None, first: int
) -> Iterator[tuple[int, VideoFrame]]:
    """(its number, the picture): by its stamp, or by counting from `first` where it has none."""
    number, tick_s = first - 1, float(video.time_base or 0)
    for frame in _decoded(container, video):
        if middles is None or frame.pts is None:
            number += 1
        else:
            number = bisect_right(middles, frame.pts * tick_s)
        yield number, frame


def _decoded(container: InputContainer, video: VideoStream) -> Iterator[VideoFrame]:
    begun = False
    with contextlib.suppress(av.FFmpegError):  # what came before is what there is of a damaged file
        for packet in container.demux(video):
            begun |= packet.is_keyframe
            if begun and packet.size:
                with contextlib.suppress(av.FFmpegError):
                    yield from packet.decode()
    with contextlib.suppress(av.FFmpegError):
        yield from video.codec_context.decode(None)


class _Size:
    """One size of the pictures, and where they are written."""

    def __init__(self, kind: tuple[int, int, str], wanted: bytes, numbers_fd: int, pixels_fd: int) -> None:
        self._kind, self._wanted = kind, wanted
        self._numbers_fd, self._pixels_fd = numbers_fd, pixels_fd
        self._graph: tuple[tuple[Any, ...], Graph] | None = None
        self.next = wanted.find(1)
        """The number of the picture that is wanted next; -1 when there is none."""

    def take(self, number: int, frame: VideoFrame) -> None:
        """Writes the picture where it is wanted, or stands in for one that is."""
        if not 0 <= self.next <= number:
            return
        rgb = self._convert(frame)
        plane, width = rgb.planes[0], 3 * rgb.width
        rows = memoryview(plane)
        step = plane.line_size
        os.write(self._numbers_fd, _NUMBER.pack(number))
        write_all(self._pixels_fd, [rows] if step == width else [rows[y * step :][:width] for y in range(rgb.height)])
        self.next = self._wanted.find(1, number + 1)

    def _convert(self, frame: VideoFrame) -> VideoFrame:
        kind = (frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range))
        if self._graph is None or self._graph[0] != kind:
            self._graph = kind, self._build(frame)
        graph = self._graph[1]
        graph.push(frame)
        return graph.vpull()

    def _build(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        graph.threads = 1
        source = graph.add(
            "buffer",
            video_size=f"{frame.width}x{frame.height}",
            pix_fmt=frame.format.name,
            time_base="1/90000",
            colorspace=str(int(frame.colorspace)),
            range=str(int(frame.color_range)),
        )
        width, height, scaling = self._kind
        nodes = [source, *(graph.add(name, value) for name, value in _turns(frame))]
        nodes += [
            graph.add("scale", f"{width}:{height}:flags={scaling}"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        return graph


def _turns(frame: VideoFrame) -> list[tuple[str, str | None]]:
    """The filters (name, value) that turn a picture as its display matrix says, as ffmpeg's own command does."""
    found = cast(Any, frame.side_data).get(Type.DISPLAYMATRIX)
    if found is None:
        return []
    matrix = struct.unpack("<9i", bytes(found)[:36])
    degrees = -frame.rotation % 360
    if degrees == 90:
        return [("transpose", "cclock_flip" if matrix[3] > 0 else "clock")]
    if degrees == 180:
        return [(flip, None) for flip, scale in (("hflip", matrix[0]), ("vflip", matrix[4])) if scale < 0]
    if degrees == 270:
        return [("transpose", "clock_flip" if matrix[3] < 0 else "cclock")]
    if degrees:
        return [("rotate", f"{math.radians(degrees)}")]
    return [("vflip", None)] if matrix[4] < 0 else []
