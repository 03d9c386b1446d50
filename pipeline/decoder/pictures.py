"""The chosen pictures of a track as RGB, in one size or several."""

from __future__ import annotations

import contextlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from operator import itemgetter
from typing import Any, TypeAlias

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.decoder.container import NO_STAMP, find_tracks, open_file
from pipeline.decoder.messages import Block
from pipeline.decoder.rgb import Size

_JUMP_PICTURES = 24  # a jump is worth about so many decoded pictures
_SKIPPING = {"h264", "mpeg1video", "mpeg2video", "mpeg4"}
"""Codecs whose pictures say of themselves that no other refers to them. HEVC's may say so although those of a higher
temporal layer do: its other pictures would not be the same."""
_Pictures: TypeAlias = "tuple[array[int], bytes]"
"""Of each picture: its stamp, and whether it is wanted in any size."""


def read_pictures(request: dict[str, Any], fd: int, *outputs: int) -> tuple[dict[str, Any], dict[str, Block]]:
    """Writes every wanted picture's number (int64) and then its pixels (rows of RGB) to the two outputs of its size.

    request: `sizes`, of each its `Kind`; `wanted0`, `wanted1`...: for each size a byte a picture, 1 where it is wanted.
    A picture that cannot be decoded is stood in for by the next. `stamps` (int64): each picture's in ticks, NO_STAMP
    where it has none. `keys` (int64): number and place to jump to (ticks) of the pictures at which decoding may begin,
    so that what is not wanted can be jumped over. What is not wanted and no other picture refers to is not decoded.
    """
    wanted = [bytes(request[f"wanted{i}"]) for i in range(len(request["sizes"]))]
    sizes = [Size(tuple(size), wanted[i], *outputs[2 * i : 2 * i + 2]) for i, size in enumerate(request["sizes"])]
    table = array("q", bytes(request["keys"]))
    keys = list(zip(table[0::2], table[1::2], strict=True))
    stamps, any_wanted = array("q", bytes(request["stamps"])), bytes(map(max, *wanted, wanted[0]))
    if not _read(request, fd, sizes, (stamps, any_wanted), keys):
        _read(request, fd, sizes, (stamps, any_wanted), [])
    return {}, {}


def _read(
    request: dict[str, Any], fd: int, sizes: list[Size], pictures: _Pictures, keys: list[tuple[int, int]]
) -> bool:
    """Whether no jump went too far; what is taken stays taken."""
    with open_file(fd, request["limits"]) as container:
        video, _ = find_tracks(container, request["limits"])
        video.codec_context.thread_count = 1
        reader = _Reader(container, video, *pictures)
        at, last = -1, -1  # the picture that was decoded last, the key that was jumped to last
        while (wanted := min((size.next for size in sizes if size.next >= 0), default=-1)) >= 0:
            behind = bisect_right(keys, wanted, key=itemgetter(0))
            key, place = keys[behind - 1] if behind else (-1, 0)
            jumps = key > max(at + _JUMP_PICTURES, last)
            if jumps:
                last = key
                reader.jump(place)
            found = next(reader.pictures, None)
            if jumps and (found is None or found[0] > wanted):
                return False
            if found is None:
                return True
            if jumps and found[0] <= at:  # this file has no index: each jump would decode all that was decoded
                keys = []
            at, frame = found
            for size in sizes:
                size.take(at, frame)
    return True


class _Reader:
    """Decodes a track, and tells which of the listed pictures it gives."""

    def __init__(self, container: InputContainer, video: VideoStream, stamps: array[int], wanted: bytes) -> None:
        self._container, self._video, self._wanted = container, video, wanted
        self._numbers = {stamp: i for i, stamp in enumerate(stamps) if stamp != NO_STAMP}
        self._loose = int(NO_STAMP in stamps)
        """Stamps may be off by so many pictures: where a packet holds several, not all readers and writers agree."""
        self._skips = not self._loose and video.codec_context.codec.canonical_name in _SKIPPING
        self.pictures = self._numbered(self._decoded(), -1)
        """(number, picture), in the order in which they are shown."""

    def jump(self, place: int) -> None:
        """Goes on near that stamp, at the first picture that needs no other."""
        self._container.seek(place, stream=self._video)
        self.pictures = self._numbered(self._trusted(), -1)

    def _numbered(self, frames: Iterator[VideoFrame], number: int) -> Iterator[tuple[int, VideoFrame]]:
        """By its stamp, or by counting on where it has none."""
        for frame in frames:
            known = self._numbers.get(frame.pts) if frame.pts is not None else None
            if known is None and frame.pts is not None and self._numbers:
                continue  # not listed
            number += 1
            if known is not None and abs(known - number) > self._loose:
                number = known
            yield number, frame

    def _trusted(self) -> Iterator[VideoFrame]:
        """What is decoded from the first key picture on. Containers call others so; only the decoder knows.

        What is shown before it refers, in open groups, to pictures that were jumped over.
        """
        begun = False
        for frame in self._decoded():
            begun |= frame.key_frame and not frame.is_corrupt
            if begun:
                yield frame

    def _decoded(self) -> Iterator[VideoFrame]:
        begun, context = False, self._video.codec_context
        with contextlib.suppress(av.FFmpegError):  # what came before is what there is of a damaged file
            for packet in self._container.demux(self._video):
                begun |= packet.is_keyframe
                if begun and packet.size:
                    if self._skips and packet.pts in self._numbers:  # a second field is treated as its first was
                        wanted = self._wanted[self._numbers[packet.pts]]
                        context.skip_frame = "DEFAULT" if wanted else "NONREF"
                    with contextlib.suppress(av.FFmpegError):
                        yield from packet.decode()
        with contextlib.suppress(av.FFmpegError):
            yield from context.decode(None)
