"""What varies from recording to recording: the nuisance draw that the four categories of one take share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.synth.identity import RGB, Stream, stream

FPS = 25
FRAME_PX = 256
SAMPLE_RATE_HZ = 16_000


@dataclass(frozen=True)
class Light:
    """One lamp and its surroundings; the direction points from the face to the lamp."""

    direction: tuple[float, float, float]
    ambient: float
    colour: RGB  # gains around 1


@dataclass(frozen=True)
class Motion:
    """Head movement: each row of `waves` is (amplitude, frequency_hz, phase) of one component of `axis`."""

    base: tuple[float, float, float, float]  # shift x px, shift y px, roll degrees, scale
    waves: tuple[tuple[int, float, float, float], ...]  # axis, amplitude, frequency_hz, phase
    blinks_s: tuple[float, ...]

    def pose(self, time_seconds: np.ndarray) -> np.ndarray:
        """Pose at each time: (T, 4) shift x px, shift y px, roll degrees, scale."""
        pose = np.tile(np.array(self.base), (len(time_seconds), 1))
        for axis, amplitude, frequency_hz, phase in self.waves:
            pose[:, axis] += amplitude * np.sin(2 * np.pi * frequency_hz * time_seconds + phase)
        return pose

    def eye_opening(self, time_seconds: np.ndarray) -> np.ndarray:
        """How far the eyes are open at each time: (T,) in 0..1."""
        opening = np.ones(len(time_seconds))
        for blink in self.blinks_s:
            opening = np.minimum(opening, np.clip((np.abs(time_seconds - blink) - 0.04) / 0.09, 0, 1))
        return opening


@dataclass(frozen=True)
class Take:
    """One recording session. Every category of the take uses the same one, so none of it tells them apart."""

    seed: int
    identity: int
    index: int
    frames: int
    lead_silence_s: float
    tail_silence_s: float
    loudness_dbfs: float
    room_snr_db: float
    room_tilt: float
    mic_cutoff_hz: float
    light: Light
    motion: Motion
    pixel_noise: float
    blur_px: float
    jpeg_quality: int
    video_kbps: int
    audio_kbps: int

    @property
    def speech_s(self) -> float:
        """Length of the part in which somebody speaks."""
        return self.frames / FPS - self.lead_silence_s - self.tail_silence_s

    def random(self, purpose: Stream) -> np.random.Generator:
        """Random generator of one purpose."""
        return stream(self.seed, purpose, self.identity, self.index)


def draw_take(seed: int, identity: int, index: int) -> Take:
    """Take `index` of one identity."""
    rng = stream(seed, Stream.TAKE, identity, index)
    u = rng.uniform
    frames = int(rng.integers(90, 111))
    return Take(
        seed=seed,
        identity=identity,
        index=index,
        frames=frames,
        lead_silence_s=u(0.05, 0.4),
        tail_silence_s=u(0.05, 0.3),
        loudness_dbfs=u(-27, -20),
        room_snr_db=u(28, 42),
        room_tilt=u(0.6, 0.95),
        mic_cutoff_hz=u(6800, 7600),
        light=_draw_light(rng),
        motion=_draw_motion(rng, frames / FPS),
        pixel_noise=u(0.8, 3.5),
        blur_px=u(0.2, 0.6),
        jpeg_quality=int(rng.integers(82, 97)),
        video_kbps=int(rng.choice((400, 480, 560, 640))),
        audio_kbps=int(rng.choice((56, 64))),
    )


def _draw_light(rng: np.random.Generator) -> Light:
    u = rng.uniform
    vector = np.array([u(-0.6, 0.6), u(-0.6, -0.1), 1.0])
    x, y, z = vector / np.linalg.norm(vector)
    warmth = u(-0.05, 0.05)
    level = u(0.92, 1.1)
    return Light((float(x), float(y), float(z)), u(0.4, 0.6), (level * (1 + warmth), level, level * (1 - warmth)))


def _draw_motion(rng: np.random.Generator, duration_s: float) -> Motion:
    u = rng.uniform
    base = (u(-10, 10), u(-6, 8), u(-4, 4), u(0.84, 0.96))
    reach = (4.0, 2.5, 2.2, 0.012)
    waves = tuple(
        (axis, amplitude * u(0.3, 1.0) / octave, octave * u(0.15, 0.45), u(0, 2 * np.pi))
        for axis, amplitude in enumerate(reach)
        for octave in (1, 3)
    )
    blinks = np.cumsum(rng.exponential(1.6, 4) + 0.4)
    return Motion(base, waves, tuple(float(b) for b in blinks if b < duration_s))
