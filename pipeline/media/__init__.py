"""The one door to media files. They come from strangers: the decoder sees one open file, no name, no network, and can
do nothing but compute.

Files are read by PyAV in `pipeline.decoder`, a process of its own behind the wall of `pipeline.decoder.jail`. ffmpeg
itself as a process per clip was the door before: its start took longer than a short clip's sound takes to read.
Only `pipeline.synth` runs ffmpeg, by ffmpeg-python, to write clips.
The clock of a clip, for picture and sound alike, is 0 where its first picture is shown.
"""

from pipeline.media.files import MediaError, NoAudioError, check_file, inside
from pipeline.media.frames import MAX_FRAME_HEIGHT_PX, Frames, Span, Video, open_video, read_frames
from pipeline.media.process import ffmpeg_exe, one_file
from pipeline.media.sound import Sound, read_sound
from pipeline.media.timeline import AudioInfo, Probe, probe
from pipeline.media.wall import Isolation, isolation

__all__ = [
    "MAX_FRAME_HEIGHT_PX", "AudioInfo", "Frames", "Isolation", "MediaError", "NoAudioError", "Probe", "Sound", "Span",
    "Video", "check_file", "ffmpeg_exe", "inside", "isolation", "one_file", "open_video", "probe", "read_frames",
    "read_sound",
]  # fmt: skip
