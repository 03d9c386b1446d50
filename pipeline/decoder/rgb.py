"""Turning decoded pictures into upright SDR RGB of a size, and where they are written."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Sequence
from typing import Any, cast

from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import ColorTrc

from pipeline.decoder.hdr import HDR, tone_map
from pipeline.decoder.messages import write_all

_NUMBER = struct.Struct("<q")
_MATRIX = struct.Struct("<9i")
_RGB, _BT709, _UNSPECIFIED, _BT2020 = 0, 1, 2, 9
_KNOWN = frozenset({_BT709, 4, 5, 6, 7, _BT2020})
"""The ways from YUV to RGB (H.273's numbers) that swscale knows."""
_UNKNOWN = frozenset({8, *range(10, 18)})
"""Those that it does not. All other numbers mean nothing for YUV: 0 is RGB's, 3 is reserved."""
_LARGEST_SD_PX = (1279, 576)
Kind = tuple[int, int, str, Sequence[int]]
"""Of a size: width, height, swscale's flags, and the first picture's display matrix."""


class Size:
    """One size of the pictures, and where they are written."""

    def __init__(self, kind: Kind, wanted: bytes, numbers_fd: int, pixels_fd: int) -> None:
        self._width, self._height, self._scaling, matrix = kind
        self._first_matrix, self._wanted = tuple(matrix), wanted
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
        # An orientation that H.264 writes beside one picture holds for those that follow.
        orientation = display_matrix(frame) or self._first_matrix
        kind = (
            *(frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range)),
            *(int(frame.color_trc), frame.interlaced_frame, orientation),
        )
        if self._graph is None or self._graph[0] != kind:
            self._graph = kind, self._build(frame, orientation)
        graph = self._graph[1]
        graph.push(frame)
        if frame.interlaced_frame:  # else it would wait for the next, which is no neighbour
            graph.push(None)
            self._graph = None
        return graph.vpull()

    def _build(self, frame: VideoFrame, orientation: tuple[int, ...]) -> Graph:
        graph = Graph()
        graph.threads = 1
        matrix = _matrix(frame)
        source = graph.add(
            "buffer",
            video_size=f"{frame.width}x{frame.height}",
            pix_fmt=frame.format.name,
            time_base="1/90000",
            colorspace=str(matrix),
            range=str(int(frame.color_range)),
        )
        filters: list[tuple[str, str | None]] = [
            # Nothing here reads the others, and swscale refuses pictures with reserved ones.
            ("setparams", f"colorspace={matrix}:color_primaries=unknown:color_trc=unknown"),
            *([("w3fdif", "filter=simple:mode=frame")] if frame.interlaced_frame else []),
            *_turns(orientation),
            ("scale", f"{self._width}:{self._height}:flags={self._scaling}"),
            *(tone_map(frame.color_trc) if frame.color_trc in HDR else []),
            ("format", "rgb24"),
            ("buffersink", None),
        ]
        graph.link_nodes(source, *(graph.add(name, value) for name, value in filters)).configure()
        return graph


def _matrix(frame: VideoFrame) -> int:
    """By which a picture's colours are read: the one that it names or, where it names none, the one players take."""
    named = int(frame.colorspace)
    if named in _UNKNOWN:
        raise ValueError(f"its colours are coded in a way that is not known here (matrix {named} of H.273)")
    if frame.format.is_rgb:
        return _RGB
    if named in _KNOWN:
        return named
    if frame.color_trc in HDR:
        return _BT2020
    large = frame.width > _LARGEST_SD_PX[0] or frame.height > _LARGEST_SD_PX[1]
    return _BT709 if large else _UNSPECIFIED


def transfer_name(frame: VideoFrame) -> str:
    """The picture's transfer, as "bt709" or "smpte2084" (PQ); "unspecified" where it is not known."""
    known = {kind.value: kind.name.lower() for kind in ColorTrc}
    return known.get(int(frame.color_trc), "unspecified")


def display_matrix(frame: VideoFrame) -> tuple[int, ...]:
    """The nine numbers of the picture's display matrix; () without one."""
    try:
        found = cast(Any, frame.side_data).get(Type.DISPLAYMATRIX)
    except ValueError:  # beside it lies what PyAV has no name for, as in MV-HEVC: then it tells the angle alone
        cos, sin = (round(function(math.radians(frame.rotation))) for function in (math.cos, math.sin))
        return (cos, -sin, 0, sin, cos, 0, 0, 0, 1)
    return _MATRIX.unpack_from(bytes(found)) if found is not None else ()


def is_turned_aside(matrix: Sequence[int]) -> bool:
    """Whether what is shown is as wide as the picture is high."""
    return any(name == "transpose" for name, _ in _turns(matrix))


def _turns(matrix: Sequence[int]) -> list[tuple[str, str | None]]:
    """The filters (name, options) that turn a picture as its display matrix says, as ffmpeg's own command does."""
    if not matrix:
        return []
    a, b, _, c, d = matrix[:5]
    degrees = round(math.degrees(math.atan2(b / (math.hypot(b, d) or 1), a / (math.hypot(a, c) or 1)))) % 360
    if degrees == 90:
        return [("transpose", "cclock_flip" if c > 0 else "clock")]
    if degrees == 180:
        return [(flip, None) for flip, scale in (("hflip", a), ("vflip", d)) if scale < 0]
    if degrees == 270:
        return [("transpose", "clock_flip" if c < 0 else "cclock")]
    if degrees:
        return [("rotate", f"{math.radians(degrees)}")]
    return [("vflip", None)] if d < 0 else []
