"""Turning decoded pictures into RGB of a size, and where they are written."""

from __future__ import annotations

import math
import os
import struct
from typing import Any, cast

from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame

from pipeline.decoder.messages import write_all

_NUMBER = struct.Struct("<q")


class Size:
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
