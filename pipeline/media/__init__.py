"""The one door to media files. They come from strangers: the decoder sees one open file, no name, no network, and can
do nothing but compute.

Files are read by PyAV in `pipeline.decoder`, a process of its own behind the wall of `pipeline.decoder.jail`. ffmpeg
itself as a process per clip was the door before: its start took longer than a short clip's sound takes to read.
ffmpeg itself runs, by ffmpeg-python, where clips are written: it is fed pixels and samples, no file of a stranger.
The clock of a clip, for picture and sound alike, is 0 where its first picture is shown.
"""

from typing import TYPE_CHECKING, Any

from pipeline.media.files import (
    Inside,
    MediaError,
    NoAudioError,
    PassingError,
    anywhere,
    check_file,
    inside,
    open_regular,
    refuse_stand_ins,
)
from pipeline.media.frames import MAX_FRAME_HEIGHT_PX, Frames, Span, Video, open_video, read_frames
from pipeline.media.process import MAX_SECONDS, one_file
from pipeline.media.provenance import Manifest, provenance, read_manifest
from pipeline.media.sound import OpenSound, Samples, Sound, open_sound, read_sound
from pipeline.media.timeline import Probe, probe
from pipeline.media.told import AudioInfo
from pipeline.media.wall import Isolation, isolation

if TYPE_CHECKING:
    from pipeline.media.writing import ffmpeg_exe, raw_pictures, raw_sound, write_clip, write_streams

__all__ = [
    "MAX_FRAME_HEIGHT_PX", "MAX_SECONDS", "AudioInfo", "Frames", "Inside", "Isolation", "Manifest", "MediaError",
    "NoAudioError", "OpenSound", "PassingError", "Probe", "Samples", "Sound", "Span", "Video", "anywhere",
    "check_file", "ffmpeg_exe", "inside", "isolation", "one_file", "open_regular", "open_sound", "open_video",
    "probe", "provenance", "raw_pictures", "raw_sound", "read_frames", "read_manifest", "read_sound",
    "refuse_stand_ins", "write_clip", "write_streams",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What writes, when it is first asked for: who only reads has no ffmpeg program."""
    if name not in __all__:
        raise AttributeError(f"pipeline.media has no {name!r}")
    from pipeline.media import writing  # noqa: PLC0415

    return getattr(writing, name)
