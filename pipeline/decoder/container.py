"""One media file, opened by its number: what may be in it, and what its packets say."""

from __future__ import annotations

import contextlib
import math
import os
from array import array
from collections.abc import Iterator
from typing import Any, cast

import av
from av.audio.stream import AudioStream
from av.container import Flags, InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from pipeline.decoder.codecs import CODECS
from pipeline.decoder.first import FirstPicture
from pipeline.decoder.messages import UNREADABLE, Block
from pipeline.decoder.seen import seen_packets

NO_STAMP = -(2**63)
DISCARD, KEY, UNSEEN = 1, 2, 4
"""Flags of a packet: the decoder needs it but an edit list hides it; a decoder can begin at it; it is no picture of its
own, but a hidden one or another's second field."""
_STRAY_PACKETS = 64
"""So many in a row, and a track is over where they are beyond what is wanted."""
# Containers that hold their streams themselves. Playlists (hls, concat, dash, sdp) open other files and are left out.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,h264,hevc,m4v,flv,asf,ogg,mxf,nut,wav,mp3,aac,flac"
)
_PICTURES_OF_A_FILE = Disposition.attached_pic | Disposition.timed_thumbnails
UNDECODED = {"skip_frame": "all"}
"""For `open_file`, where pictures are not wanted: ffmpeg decodes some to tell what the headers say already."""
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
        "codec_whitelist": ",".join(CODECS),  # for what ffmpeg decodes by itself, to tell what is in the file
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
    if (codec := _codec(shown[0])) not in CODECS:
        raise RefusedError(_not_accepted("picture", codec) if codec else "the picture's codec is not known")
    width, height = shown[0].codec_context.width, shown[0].codec_context.height
    if not 0 < width * height <= limits["max_pixels"]:
        raise RefusedError(f"the picture is {width}x{height}: more than {limits['max_pixels']} pixels, or none")
    return shown[0], find_sound(container)


def find_sound(container: InputContainer) -> AudioStream | None:
    """The first sound track whose codec is known and accepted."""
    return next((track for track in container.streams.audio if _codec(track) in CODECS), None)


def why_no_sound(container: InputContainer) -> str:
    """Where `find_sound` finds none."""
    tracks = container.streams.audio
    if not tracks:
        return "no sound track"
    name = _codec(tracks[0])
    return _not_accepted("sound", name) if name else "the sound's codec is not known"


def _codec(track: VideoStream | AudioStream) -> str:
    """The name of what decodes it; empty where nothing does."""
    context: Any = track.codec_context  # PyAV's types do not know that it may be None
    return str(context.codec.name) if context else ""


def _not_accepted(what: str, decoder: str) -> str:
    return f"the {what}'s codec ({decoder}) is none that is accepted: convert the file to H.264 and AAC"


def read_packets(
    container: InputContainer, tracks: Tracks, limits: dict[str, Any], rows: array[int]
) -> Iterator[Packet[Any]]:
    """Every packet of both tracks that can be decoded, and empty ones at the end; `rows` tells of the picture's.

    A track's packets before its first key packet are passed over, and so is what lies beyond `max_s` of the limits.
    RefusedError where the picture is encrypted, or there are more than `max_pictures`.
    rows: (packets, 4): pts, dts, duration, flags; of what was read.
    """
    video = tracks[0].index
    both = [track for track in tracks if track]
    lasts = {track.index: limits["max_s"] / float(track.time_base or 1e-9) for track in both}
    ends: dict[int, float] = {}  # of the tracks that have begun: the last stamp that is wanted
    beyond = dict.fromkeys(lasts, 0)
    is_seen = seen_packets(tracks[0])
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
            if index == video:
                if packet.has_sidedata("encryption_info"):
                    raise RefusedError("the picture is encrypted")
                if len(rows) >= 4 * limits["max_pictures"]:
                    raise RefusedError(f"the clip has more than {limits['max_pictures']} pictures")
                flags = DISCARD * packet.is_discard | KEY * key | UNSEEN * (not is_seen(packet))
                pts, dts = (NO_STAMP if stamp is None else stamp for stamp in (pts, dts))
                rows.extend((pts, dts, packet.duration or 0, flags))
            if stamp is not None:
                if stamp > ends[index]:
                    beyond[index] += 1
                    if min(beyond.values()) >= _STRAY_PACKETS:
                        return
                    continue
                beyond[index] = 0
                if ends[index] == math.inf:
                    ends[index] = stamp + lasts[index]
            yield packet


def describe(container: InputContainer, tracks: Tracks, first: FirstPicture, max_pixels: int) -> dict[str, Any]:
    """What the headers and the first picture say, in plain JSON types."""
    video, audio = tracks
    found: dict[str, Any] = {
        "container": container.format.name,
        "codec": video.codec.canonical_name,
        **first.describe(max_pixels),
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


def list_packets(request: dict[str, Any], fd: int) -> tuple[dict[str, Any], dict[str, Block]]:
    """What the file says of itself and the packets' rows; nothing is decoded but the first picture."""
    limits = request["limits"]
    with open_file(fd, limits, **UNDECODED, **request["options"]) as container:
        tracks = find_tracks(container, limits)
        rows, first = array("q"), FirstPicture(tracks[0])
        for packet in read_packets(container, tracks, limits, rows):
            if packet.stream is tracks[0]:
                first.look(packet)
        return describe(container, tracks, first, limits["max_pixels"]), {"packets": rows.tobytes()}
