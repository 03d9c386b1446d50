"""What a track's first picture tells of how the clip is shown: headers may not say it, or say it of another track."""

from __future__ import annotations

import contextlib
from typing import Any

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.decoder.rgb import display_matrix, is_turned_aside, transfer_name

_MOST_PACKETS = 300
"""So many are tried. What none of them shows keeps its headers' size."""
_MOST_STRETCHED = 4
"""Pixels that are said to be wider or narrower than this are taken for square: real ones are at most 2.85:1."""


class FirstPicture:
    """Decodes packets until one gives a picture."""

    def __init__(self, video: VideoStream) -> None:
        self._video, self._context = video, video.codec_context
        self._context.thread_count = 1
        self._left = _MOST_PACKETS
        self._frame: VideoFrame | None = None

    def look(self, packet: Packet[Any]) -> None:
        """Takes the track's next packet."""
        if self._left == 0:
            return
        self._left -= 1
        if packet.is_discard:  # an edit list hides its picture, which tells as much as the first that is shown
            packet = Packet(bytes(packet))
        with contextlib.suppress(av.FFmpegError):
            for frame in self._context.decode(packet if packet.size else None):
                self._frame, self._left = frame, 0

    def describe(self, max_pixels: int) -> dict[str, Any]:
        """How pictures are shown, in plain JSON types: upright, with square pixels; None of what nothing tells."""
        frame = self._frame
        size = frame or self._context
        matrix = display_matrix(frame) if frame else ()
        # As players do: what the container says, else what the picture does.
        aspect = float(self._video.sample_aspect_ratio or self._context.sample_aspect_ratio or 1)
        if not 1 / _MOST_STRETCHED <= aspect <= _MOST_STRETCHED:
            aspect = 1.0
        width, height = _square(size.width, size.height, aspect, max_pixels)
        return {
            "width_px": height if is_turned_aside(matrix) else width,
            "height_px": width if is_turned_aside(matrix) else height,
            "matrix": matrix,
            "pixel_aspect": aspect,
            "transfer": transfer_name(frame) if frame else None,
            "bit_depth": frame.format.components[0].bits if frame else None,
            "interlaced": frame.interlaced_frame if frame else None,
        }


def _square(width: int, height: int, aspect: float, max_pixels: int) -> tuple[int, int]:
    """The size with square pixels: as high as before, unless that would be too large."""
    wide = max(1, round(width * aspect))
    return (wide, height) if wide * height <= max_pixels else (width, max(1, round(height / aspect)))
