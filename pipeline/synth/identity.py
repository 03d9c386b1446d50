"""Who is seen and heard: faces and voices drawn from a seed, one independent random stream per purpose."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

RGB = tuple[float, float, float]

# Anchors from light to dark; a skin is a point on this line plus a little hue.
_SKINS = np.array(
    [(244, 212, 190), (229, 184, 152), (206, 153, 116), (172, 119, 84), (133, 88, 62), (100, 66, 48)], float
)
_HAIRS = np.array(
    [(34, 27, 25), (62, 42, 30), (98, 64, 38), (150, 104, 58), (196, 160, 102), (128, 54, 28), (140, 138, 136)], float
)
_IRISES = np.array([(74, 46, 26), (104, 74, 40), (86, 112, 70), (84, 124, 160), (110, 124, 132)], float)
HAIR_STYLES = ("short", "long", "fringe", "receding")


class Stream(IntEnum):
    """Purposes with a random stream of their own, so that one more draw in one never shifts another."""

    FACE = 0
    VOICE = 1
    TAKE = 2
    TEXT = 3
    VOICE_NOISE = 4
    ROOM_NOISE = 5
    BACKGROUND = 6
    PIXEL_NOISE = 7
    FAKE_VIDEO = 8
    FAKE_AUDIO = 9
    FAKE_TEXT = 10


def stream(seed: int, purpose: Stream, identity: int, take: int = 0) -> np.random.Generator:
    """Random generator of one purpose of one take: the same whatever else is generated, and in which order."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(identity, take, int(purpose))))


@dataclass(frozen=True)
class Voice:
    """A speaker: pitch, vocal tract and habits."""

    pitch_hz: float
    pitch_range_semitones: float
    formant_scale: float  # 1 = the vowel table; larger = a shorter vocal tract
    formant_shift: tuple[float, float, float]  # per-formant factors around formant_scale
    tilt_hz: float  # corner of the one-pole glottal low-pass
    breath: float
    jitter: float
    tempo: float


@dataclass(frozen=True)
class Face:
    """A drawn head: lengths in canvas pixels relative to the head's centre, colours in RGB 0..255."""

    half_width_px: float
    half_height_px: float
    jaw: float
    eye_x_px: float
    eye_y_px: float
    eye_width_px: float
    eye_height_px: float
    eye_slant: float
    brow_y_px: float
    brow_thickness_px: float
    brow_arch_px: float
    nose_y_px: float
    nose_width_px: float
    nose_height_px: float
    mouth_y_px: float
    mouth_width_px: float
    upper_lip_px: float
    lower_lip_px: float
    cheek: float
    hair_style: str
    hairline_px: float
    hair_volume_px: float
    beard: float
    freckles: float
    texture_seed: int
    skin: RGB
    hair: RGB
    iris: RGB
    lips: RGB
    shirt: RGB


@dataclass(frozen=True)
class Identity:
    """One subject of the data set."""

    index: int
    face: Face
    voice: Voice


def subject_name(index: int) -> str:
    """Subject id of identity `index`."""
    return f"id{index:05d}"


def donor_of(index: int) -> int:
    """Index of the identity whose face or voice a fake of `index` borrows: fixed pairs 2k <-> 2k + 1.

    The partner of an odd one out is drawn but owns no clips. Borrowing from an earlier identity instead
    would change that subject's clips as soon as the data set grows by one.
    """
    return index ^ 1


def draw_identity(seed: int, index: int) -> Identity:
    """Identity `index` of the data set with this seed."""
    return Identity(index, _draw_face(stream(seed, Stream.FACE, index)), _draw_voice(stream(seed, Stream.VOICE, index)))


def _draw_voice(rng: np.random.Generator) -> Voice:
    low = rng.random() < 0.5
    pitch_hz = rng.uniform(90, 140) if low else rng.uniform(165, 240)
    scale = rng.uniform(0.9, 1.04) if low else rng.uniform(1.05, 1.2)
    shift = 1 + rng.uniform(-0.06, 0.06, 3)
    return Voice(
        pitch_hz=pitch_hz,
        pitch_range_semitones=rng.uniform(2, 5),
        formant_scale=scale,
        formant_shift=(float(shift[0]), float(shift[1]), float(shift[2])),
        tilt_hz=rng.uniform(900, 2400),
        breath=rng.uniform(0.01, 0.06),
        jitter=rng.uniform(0.004, 0.014),
        tempo=rng.uniform(0.88, 1.14),
    )


def _draw_face(rng: np.random.Generator) -> Face:
    u = rng.uniform
    half_width, half_height = u(61, 72), u(82, 92)
    eye_y, mouth_y = u(-17, -9), u(42, 50)
    position = u(0, len(_SKINS) - 1)
    skin = [np.interp(position, range(len(_SKINS)), channel) for channel in _SKINS.T] + rng.normal(0, 4, 3)
    hair = _HAIRS[rng.integers(len(_HAIRS))] * u(0.85, 1.15)
    lips = skin * (0.86, 0.62, 0.64) + (u(0, 30), 0, u(0, 10))
    return Face(
        half_width_px=half_width,
        half_height_px=half_height,
        jaw=u(0.08, 0.3),
        eye_x_px=half_width * u(0.4, 0.46),
        eye_y_px=eye_y,
        eye_width_px=u(12, 15.5),
        eye_height_px=u(5, 7.5),
        eye_slant=u(-0.1, 0.1),
        brow_y_px=eye_y - u(14, 18),
        brow_thickness_px=u(2.4, 4.6),
        brow_arch_px=u(1, 5),
        nose_y_px=eye_y + u(31, 38),
        nose_width_px=u(8, 12.5),
        nose_height_px=u(9, 14),
        mouth_y_px=mouth_y,
        mouth_width_px=u(21, 27),
        upper_lip_px=u(3.5, 6),
        lower_lip_px=u(5, 8.5),
        cheek=u(0.03, 0.16),
        hair_style=str(HAIR_STYLES[rng.integers(len(HAIR_STYLES))]),
        hairline_px=-half_height * u(0.56, 0.7),
        hair_volume_px=u(5, 15),
        beard=u(0.15, 0.5) if rng.random() < 0.3 else 0.0,
        freckles=u(0.3, 1) if rng.random() < 0.25 else 0.0,
        texture_seed=int(rng.integers(2**31)),
        skin=_rgb(skin),
        hair=_rgb(hair),
        iris=_rgb(_IRISES[rng.integers(len(_IRISES))] * u(0.85, 1.15)),
        lips=_rgb(lips),
        shirt=_rgb(u(30, 220, 3)),
    )


def _rgb(colour: np.ndarray) -> RGB:
    red, green, blue = np.clip(colour, 8, 250)
    return float(red), float(green), float(blue)
