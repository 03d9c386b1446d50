"""One clip from its spec to its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.media import write_clip
from pipeline.synth.fake_audio import revoice
from pipeline.synth.fake_video import Patch
from pipeline.synth.identity import Identity, Stream, donor_of, draw_identity
from pipeline.synth.picture import render
from pipeline.synth.plan import ClipSpec
from pipeline.synth.sound import record
from pipeline.synth.speech import Articulation, plan_speech, speak
from pipeline.synth.take import FPS, SAMPLE_RATE_HZ, Take, draw_take


def render_clip(spec: ClipSpec, folder: Path) -> str:
    """Name of the clip's file, which is written to `folder` in one piece or not at all."""
    take = draw_take(spec.seed, spec.identity, spec.take)
    samples = np.round(sound_of(spec) * 32767).astype(np.int16)
    # A constant bit rate, filled up where the picture needs less: the size of a file is set by the take, not by how
    # hard a seam or a blurred patch is to encode.
    kbps = f"{take.video_kbps}k"
    write_clip(
        folder / spec.file_name,
        picture_of(spec),
        samples,
        fps=FPS,
        sample_rate_hz=SAMPLE_RATE_HZ,
        **{"b:v": kbps, "minrate": kbps, "maxrate": kbps, "bufsize": kbps},
        **{"x264-params": "nal-hrd=cbr:force-cfr=1:filler=1", "b:a": f"{take.audio_kbps}k"},
    )
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
