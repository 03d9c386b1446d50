"""One clip from its spec to its file."""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import NamedTemporaryFile

import ffmpeg
import numpy as np
from scipy.io import wavfile

from cache_schemas.files import replacing
from pipeline.media import ffmpeg_exe
from pipeline.synth.fake_audio import revoice
from pipeline.synth.fake_video import Patch
from pipeline.synth.identity import Identity, Stream, donor_of, draw_identity
from pipeline.synth.picture import render
from pipeline.synth.plan import ClipSpec
from pipeline.synth.sound import record
from pipeline.synth.speech import Articulation, plan_speech, speak
from pipeline.synth.take import FPS, FRAME_PX, SAMPLE_RATE_HZ, Take, draw_take


def render_clip(spec: ClipSpec, folder: Path) -> str:
    """Name of the clip's file, which is written to `folder` in one piece or not at all."""
    take = draw_take(spec.seed, spec.identity, spec.take)
    samples = np.round(sound_of(spec) * 32767).astype("<i2")
    with (
        replacing(folder / spec.file_name) as target,
        NamedTemporaryFile(dir=folder, prefix=f".{spec.file_name}.", suffix=".wav") as sound,
    ):
        wavfile.write(sound, SAMPLE_RATE_HZ, samples)
        _encode(picture_of(spec), sound.name, take, target)
    return spec.file_name


def picture_of(spec: ClipSpec) -> np.ndarray:
    """Frames (T, 256, 256, 3) uint8 RGB of a clip before its encoding."""
    identity, take, speech = _drawn(spec)
    mouth, retouch = speech.mouth(take.frames, take.lead_silence_s), None
    if spec.video_method:
        retouch = Patch(spec.video_method, target=identity, take=take, mouth=mouth, difficulty=spec.difficulty)
    return render(identity, take, mouth, retouch)


def sound_of(spec: ClipSpec) -> np.ndarray:
    """Samples (N,) in -1..1 at SAMPLE_RATE_HZ of a clip before its encoding."""
    identity, take, speech = _drawn(spec)
    voice, method = speak(speech, identity.voice, take.random(Stream.VOICE_NOISE)), spec.audio_method
    if method:
        donor, rng = draw_identity(spec.seed, donor_of(spec.identity)).voice, take.random(Stream.FAKE_AUDIO)
        voice = revoice(method, voice, voice=identity.voice, donor=donor, difficulty=spec.difficulty, rng=rng)
    return record(take, voice)


def _drawn(spec: ClipSpec) -> tuple[Identity, Take, Articulation]:
    """Who is seen, where, and what they say."""
    identity, take = draw_identity(spec.seed, spec.identity), draw_take(spec.seed, spec.identity, spec.take)
    return identity, take, plan_speech(take.random(Stream.TEXT), take.speech_s, identity.voice.tempo)


def _encode(frames: np.ndarray, sound: str, take: Take, target: Path) -> None:
    """H.264 at a constant bit rate, filled up where the picture needs less, and AAC.

    The size of a file is then set by the take, not by how hard a seam or a blurred patch is to encode. One
    thread and `bitexact` make the bytes a function of the frames.
    """
    kbps = f"{take.video_kbps}k"
    picture = ffmpeg.input("pipe:0", f="rawvideo", pix_fmt="rgb24", s=f"{FRAME_PX}x{FRAME_PX}", r=FPS)
    file = ffmpeg.output(
        picture["v:0"],
        ffmpeg.input(sound, f="wav")["a:0"],
        str(target),
        f="mp4",
        map_metadata=-1,
        threads=1,
        pix_fmt="yuv420p",
        fflags="+bitexact",
        **{"c:v": "libx264", "preset": "veryfast", "x264-params": "nal-hrd=cbr:force-cfr=1:filler=1"},
        **{"b:v": kbps, "minrate": kbps, "maxrate": kbps, "bufsize": kbps, "flags:v": "+bitexact"},
        **{"c:a": "aac", "b:a": f"{take.audio_kbps}k", "ac": 1, "ar": SAMPLE_RATE_HZ, "flags:a": "+bitexact"},
    )
    argv = ffmpeg.compile(file.global_args("-hide_banner", "-loglevel", "error"), ffmpeg_exe(), overwrite_output=True)
    done = subprocess.run(argv, input=frames.tobytes(), capture_output=True, check=False)  # noqa: S603
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"ffmpeg could not encode {target.name} (exit {done.returncode}): {message}")
