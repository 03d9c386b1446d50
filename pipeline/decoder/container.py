"""One media file, opened by its number: what may be in it, and what its packets say."""

from __future__ import annotations

import contextlib
import math
import os
import re
from array import array
from collections.abc import Iterator
from typing import Any, cast

import av
import av.logging
from av.audio.stream import AudioStream
from av.container import Flags, InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from pipeline.decoder.messages import Block

NO_STAMP = -(2**63)
UNREADABLE = "the disk failed while it was read"
DISCARD, KEY = 1, 2
"""Flags of a packet: the decoder needs it but an edit list hides it; a decoder can begin at it."""
# Containers that hold their streams themselves. Playlists (hls, concat, dash, sdp) open other files and are left out.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,h264,hevc,m4v,flv,asf,ogg,mxf,nut,wav,mp3,aac,flac"
)
_PICTURES_OF_A_FILE = Disposition.attached_pic | Disposition.timed_thumbnails
UNDECODED = {"skip_frame": "all"}
"""For `open_file`, where no picture is wanted: ffmpeg decodes the first to tell what the headers say already."""
Tracks = tuple[VideoStream, AudioStream | None]


class RefusedError(Exception):
    """The file cannot be used for what was asked; the message says why."""


class NoSoundError(RefusedError):
    """There is no sound track, or none that can be used."""


@contextlib.contextmanager
def open_file(fd: int, limits: dict[str, Any], **options: str) -> Iterator[InputContainer]:
    """The container behind the open file `fd`: no name is known here, and no other file can be opened.

    limits: max_streams and max_pixels. Raises OSError (UNREADABLE) at the end where it was the disk that ended the
    reading.
    """
    whole = {
        "fd": str(fd),
        "protocol_whitelist": "fd",
        "format_whitelist": _CONTAINERS,
        "max_streams": str(limits["max_streams"] + 1),  # some formats only leave out what is beyond
        "max_pixels": str(limits["max_pixels"]),
        **options,
    }
    os.lseek(fd, 0, os.SEEK_SET)  # it may have been read before
    try:
        with av.open("fd:", options=whole, metadata_errors="replace") as container:
            # In AVI it makes up stamps that are wrong for B-frames.
            container.flags &= ~cast(int, Flags.gen_pts.value)
            if len(container.streams) > limits["max_streams"]:
                raise RefusedError(f"the file has more than {limits['max_streams']} streams")
            yield container
    finally:
        _check_disk(fd)


def _check_disk(fd: int) -> None:
    """ffmpeg takes what cannot be read for the file's end. It stopped before it then, and there it is met again."""
    try:
        os.read(fd, 1)
    except OSError as error:
        raise OSError(error.errno, f"{UNREADABLE} ({error.strerror})") from None


def find_tracks(container: InputContainer, limits: dict[str, Any]) -> Tracks:
    """The first picture track that is none of a cover, and `find_sound`'s; RefusedError without a picture."""
    shown = [s for s in container.streams.video if not s.disposition & _PICTURES_OF_A_FILE]
    if not container.streams:
        raise RefusedError("the file holds no stream")
    if not shown:
        raise RefusedError("no picture: the file has no video stream")
    if shown[0].codec_context is None:  # PyAV's types do not know that it may be
        raise RefusedError("the picture's codec is not known")
    width, height = shown[0].codec_context.width, shown[0].codec_context.height
    if not 0 < width * height <= limits["max_pixels"]:
        raise RefusedError(f"the picture is {width}x{height}: more than {limits['max_pixels']} pixels, or none")
    return shown[0], find_sound(container)


def find_sound(container: InputContainer) -> AudioStream | None:
    """The first sound track whose codec is known: of another the context is None, which PyAV's types do not know."""
    return next((track for track in container.streams.audio if track.codec_context is not None), None)


def read_packets(container: InputContainer, tracks: Tracks, max_s: float, rows: array[int]) -> Iterator[Packet[Any]]:
    """Every packet of both tracks that can be decoded, and empty ones at the end; `rows` tells of the picture's.

    A track's packets before its first key packet are passed over, and so is what lies beyond `max_s`.
    rows: (packets, 4): pts, dts, duration, flags; of what was read.
    """
    video = tracks[0].index
    both = [track for track in tracks if track]
    lasts = {track.index: max_s / float(track.time_base or 1e-9) for track in both}
    ends: dict[int, float] = {}  # of the tracks that have begun: the last stamp that is wanted
    beyond = set[int]()
    with contextlib.suppress(av.FFmpegError):  # what came before is what there is of a damaged file
        for packet in container.demux(*both):
            index = packet.stream_index
            if packet.size == 0:
                yield packet
                continue
            pts, dts, key = packet.pts, packet.dts, packet.is_keyframe
            if index not in ends:
                if index == video and not key:
                    continue
                ends[index] = math.inf
            stamp = dts if pts is None else pts
            if stamp is not None:
                if stamp > ends[index]:
                    beyond.add(index)
                    if len(beyond) == len(both):
                        return
                    continue
                if ends[index] == math.inf:
                    ends[index] = stamp + lasts[index]
            if index == video:
                pts, dts = (NO_STAMP if stamp is None else stamp for stamp in (pts, dts))
                rows.extend((pts, dts, packet.duration or 0, DISCARD * packet.is_discard | KEY * key))
            yield packet


def describe(container: InputContainer, tracks: Tracks) -> dict[str, Any]:
    """What the headers say, in plain JSON types."""
    video, audio = tracks
    found: dict[str, Any] = {
        "container": container.format.name,
        "codec": video.codec.canonical_name,
        "width_px": video.codec_context.width,
        "height_px": video.codec_context.height,
        "turned_degrees": _turned_degrees(container),
        "n_audio": len(container.streams.audio),
        "tick_s": float(video.time_base or 0),
        "audio": describe_sound(audio) if audio else None,
    }
    return found


def describe_sound(track: AudioStream) -> dict[str, Any]:
    """What the headers say of a sound track."""
    context = track.codec_context
    return {
        "codec": track.codec.canonical_name,
        "sample_rate_hz": context.sample_rate,
        "channels": context.layout.name,
    }


def _turned_degrees(container: InputContainer) -> float:
    """PyAV tells a track's display matrix only in ffmpeg's description of the file."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    text = cast(Any, container).dumps_format()  # PyAV's types do not know it
    av.logging.set_level(level)
    found = re.search(r"display ?matrix: rotation of (-?[\d.]+) degrees", text, flags=re.IGNORECASE)
    return float(found[1]) if found else 0.0


def list_packets(request: dict[str, Any], fd: int) -> tuple[dict[str, Any], dict[str, Block]]:
    """The headers and the packets' rows; nothing is decoded."""
    limits = request["limits"]
    with open_file(fd, limits, **UNDECODED, **request["options"]) as container:
        tracks = find_tracks(container, limits)
        rows = array("q")
        for _ in read_packets(container, tracks, limits["max_s"], rows):
            pass
        return describe(container, tracks), {"packets": rows.tobytes()}
