"""The one door to media files. They come from strangers: ffmpeg sees one local file, no network, and has limits.

Every call is one ffmpeg process, built by ffmpeg-python and run under the limits of `pipeline.media.process`.
The clock of a clip, for picture and sound alike, is 0 where its first picture is shown.

PyAV inside a killable worker was weighed: packets and sound of a 2.6 s clip take it 5 ms against 15 ms in a process of
their own (8 ms of it start), of 10 s of full HD 21 against 37 ms. The process stays: what a hostile file does to its
decoder ends with it and touches no other clip, and most time goes into decoding pictures, the same on both ways.
"""

from pipeline.media.files import MediaError, NoAudioError, check_file, inside
from pipeline.media.frames import MAX_FRAME_HEIGHT_PX, Frames, Span, Video, open_video, read_frames
from pipeline.media.process import ffmpeg_exe
from pipeline.media.sound import Sound, read_sound
from pipeline.media.timeline import AudioInfo, Probe, probe

__all__ = [
    "MAX_FRAME_HEIGHT_PX",
    "AudioInfo",
    "Frames",
    "MediaError",
    "NoAudioError",
    "Probe",
    "Sound",
    "Span",
    "Video",
    "check_file",
    "ffmpeg_exe",
    "inside",
    "open_video",
    "probe",
    "read_frames",
    "read_sound",
]
