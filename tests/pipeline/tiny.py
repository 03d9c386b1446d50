"""Small generated clips for data set trees: the built-in talking head, 128 px, 1.5 s, each file with its own bytes."""

from __future__ import annotations

import subprocess
import wave
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np

from pipeline.media import ffmpeg_exe
from pipeline.synth.clip import picture_of, sound_of
from pipeline.synth.plan import ClipSpec
from pipeline.synth.take import FPS, FRAME_PX, SAMPLE_RATE_HZ

SECONDS = 1.5


@dataclass
class TinyClips:
    """Puts clips into a tree: `real` ones, and `fake` ones that begin with 0.5 s of silence, as in FakeAVCeleb."""

    real: bytes
    fake: bytes
    _numbers: count[int] = field(default_factory=count)

    def put(self, path: Path, *, fake: bool = False) -> None:
        """Writes a clip with bytes of its own."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(numbered(self.fake if fake else self.real, next(self._numbers)))


def numbered(mp4: bytes, number: int) -> bytes:
    """The same film in other bytes: with an empty box of MP4's behind it, that players skip."""
    return mp4 + (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big")


def write_wav(path: Path, *, hz: float, seconds: float = SECONDS) -> None:
    """A tone, 16 bit, 16 kHz, mono."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.sin(2 * np.pi * hz * np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
        file.writeframes((samples * 2**14).astype("<i2").tobytes())


def draw(folder: Path) -> TinyClips:
    """The two clips, drawn and encoded once; they share the picture."""
    real = ClipSpec(0, 0.3, 0, 0, "RVRA", "", "")
    picture = folder / "picture.rgb"
    picture.write_bytes(picture_of(real)[20 : 20 + round(SECONDS * FPS), ::2, ::2].tobytes())
    fake = replace(real, category="RVFA", audio_method="vocoder")
    return TinyClips(_encode(picture, real, silence_s=0), _encode(picture, fake, silence_s=0.5))


def _encode(picture: Path, spec: ClipSpec, *, silence_s: float) -> bytes:
    samples = sound_of(spec)[int(0.8 * SAMPLE_RATE_HZ) :][: int(SECONDS * SAMPLE_RATE_HZ)]
    samples[: int(silence_s * SAMPLE_RATE_HZ)] = 0
    sound, target = picture.with_name(f"{spec.category}.f32"), picture.with_name(f"{spec.category}.mp4")
    sound.write_bytes(samples.astype("<f4").tobytes())
    argv = [
        ffmpeg_exe(), "-v", "error", "-y",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{FRAME_PX // 2}x{FRAME_PX // 2}", "-r", str(FPS), "-i", picture,
        "-f", "f32le", "-ar", str(SAMPLE_RATE_HZ), "-ac", "1", "-i", sound,
        "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", target,
    ]  # fmt: skip
    subprocess.run(argv, check=True)
    return target.read_bytes()
