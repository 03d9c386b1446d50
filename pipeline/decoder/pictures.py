"""The chosen pictures of a track as RGB, in one size or several."""

from __future__ import annotations

import contextlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.decoder.container import find_tracks, open_file
from pipeline.decoder.messages import Block
from pipeline.decoder.rgb import Size

_JUMP_PICTURES = 24  # a jump is worth about so many decoded pictures


def read_pictures(request: dict[str, Any], fd: int, *outputs: int) -> tuple[dict[str, Any], dict[str, Block]]:
    """Writes every wanted picture's number (int64) and then its pixels (rows of RGB) to the two outputs of its size.

    request: `sizes`, of each its `Kind`; `wanted0`, `wanted1`...: for each size a byte a
    picture, 1 where it is wanted. A picture that cannot be decoded is stood in for by the next. `middles_s` (float64):
    the stamps halfway between neighbouring pictures; pictures without stamps are counted instead. `keys` (int64):
    number and stamp (ticks) of the pictures at which decoding may begin, so that what is not wanted can be jumped over.
    `coarse`: whether some of the pictures are enough, and need not be fine.
    """
    sizes = [
        Size(tuple(size), bytes(request[f"wanted{i}"]), *outputs[2 * i : 2 * i + 2])
        for i, size in enumerate(request["sizes"])
    ]
    keys = memoryview(bytes(request["keys"])).cast("q")
    numbers, stamps = keys[0::2].tolist(), keys[1::2].tolist()
    if not _read(request, fd, sizes, numbers, stamps):
        _read(request, fd, sizes, [], [])
    return {}, {}


def _read(request: dict[str, Any], fd: int, sizes: list[Size], numbers: list[int], stamps: list[int]) -> bool:
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
