"""Synthetic speech: an articulation plan (what the mouth does) and a source-filter voice that speaks it.

plan --> loudness, voicing, formants, friction --> glottal pulses and noise --> formant filter --> samples
  \\--> mouth opening and roundness at the picture's frames
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from pipeline.synth.identity import Voice
from pipeline.synth.take import FPS, SAMPLE_RATE_HZ

TRACK_RATE_HZ = 200
HOP = SAMPLE_RATE_HZ // TRACK_RATE_HZ

# First three formants in Hz, mouth opening, lip rounding (negative = spread).
_VOWELS = np.array(
    [
        (760, 1250, 2550, 1.00, 0.0),  # a
        (520, 1850, 2550, 0.60, -0.4),  # e
        (300, 2250, 2950, 0.32, -0.8),  # i
        (500, 880, 2450, 0.68, 0.7),  # o
        (330, 820, 2300, 0.34, 1.0),  # u
        (560, 1450, 2500, 0.50, 0.0),  # schwa
    ]
)
_CONSONANTS = ("none", "fricative", "stop", "nasal")
_BANDWIDTHS_HZ = (70.0, 95.0, 140.0, 220.0, 300.0)
_HIGH_FORMANTS_HZ = (3500.0, 4600.0)


@dataclass(frozen=True)
class Articulation:
    """What is said, at TRACK_RATE_HZ; no speaker in it. All tracks (T,) but `formants_hz` (T, 3)."""

    loudness: np.ndarray
    voicing: np.ndarray
    friction: np.ndarray
    friction_hz: np.ndarray
    formants_hz: np.ndarray
    opening: np.ndarray
    roundness: np.ndarray
    accent: np.ndarray  # -1..1, scaled by the speaker's pitch range

    def mouth(self, frames: int, lead_silence_s: float) -> np.ndarray:
        """Mouth at each picture frame: (frames, 2) opening 0..1 and roundness -1..1."""
        centre_s = (np.arange(frames) + 0.5) / FPS - lead_silence_s
        times = (np.arange(len(self.opening)) + 0.5) / TRACK_RATE_HZ
        return np.stack(
            [np.interp(centre_s, times, track, left=0, right=0) for track in (self.opening, self.roundness)], axis=1
        )


@dataclass
class _Tracks:
    """Piecewise constant targets while the plan is being laid out."""

    rows: np.ndarray  # (T, 9): loudness, voicing, friction, friction_hz, f1, f2, f3, opening, roundness
    accent: np.ndarray
    position: int = 0

    def put(self, seconds: float, **values: float) -> None:
        names = ("loudness", "voicing", "friction", "friction_hz", "f1", "f2", "f3", "opening", "roundness")
        end = min(len(self.rows), self.position + max(1, round(seconds * TRACK_RATE_HZ)))
        for name, value in values.items():
            self.rows[self.position : end, names.index(name)] = value
        self.position = end

    @property
    def left(self) -> int:
        return len(self.rows) - self.position


def plan_speech(rng: np.random.Generator, duration_s: float, tempo: float) -> Articulation:
    """Articulation of random words that fill `duration_s`; `tempo` 1 is about 4.5 syllables a second."""
    length = round(duration_s * TRACK_RATE_HZ)
    tracks = _Tracks(np.zeros((length, 9)), np.zeros(length))
    tracks.rows[:, 3:7] = (4000.0, *_VOWELS[5, :3])
    first = True
    while tracks.left > 0:
        for _ in range(int(rng.integers(1, 4))):
            _syllable(rng, tracks, tempo, first)
            first = False
        if rng.random() < 0.45 and tracks.left > 0.4 * TRACK_RATE_HZ:
            tracks.put(rng.uniform(0.06, 0.18) / tempo, loudness=0.0, opening=0.03)
    return _smooth(tracks)


def _syllable(rng: np.random.Generator, tracks: _Tracks, tempo: float, first: bool) -> None:
    f1, f2, f3, opening, roundness = (float(v) for v in _VOWELS[rng.integers(len(_VOWELS))])
    stress = rng.uniform(0.65, 1.0)
    accent, start = rng.uniform(-1, 1), tracks.position
    formants = {"f1": f1, "f2": f2, "f3": f3}
    # The first sound of a clip is a vowel: a soft consonant would blur where the leading silence ends.
    kind = "none" if first else str(rng.choice(_CONSONANTS, p=(0.12, 0.3, 0.3, 0.28)))
    seconds = rng.uniform(0.05, 0.1) / tempo
    if kind == "fricative":
        hiss = rng.uniform(3000, 6200)
        voiced = 0.35 * float(rng.random() < 0.4)
        tracks.put(
            seconds, loudness=0.45, voicing=voiced, friction=1, friction_hz=hiss, opening=0.12,
            roundness=roundness * 0.5, **formants,
        )  # fmt: skip
    elif kind == "stop":
        tracks.put(seconds * 0.7, loudness=0.0, opening=0.0, roundness=roundness * 0.5, **formants)
        tracks.put(0.015, loudness=0.5, friction=1, friction_hz=rng.uniform(1800, 4500), opening=0.1, **formants)
    elif kind == "nasal":
        tracks.put(seconds, loudness=0.35, voicing=1, f1=260, f2=1200, f3=2300, opening=0.0, roundness=0)
    vowel_s = rng.uniform(0.1, 0.2) / tempo
    tracks.put(vowel_s, loudness=stress, voicing=1, opening=opening * stress, roundness=roundness, **formants)
    tracks.accent[start : tracks.position] = accent * stress


def _smooth(tracks: _Tracks) -> Articulation:
    def at(column: int | slice, seconds: float) -> np.ndarray:
        return np.asarray(gaussian_filter1d(tracks.rows[:, column], seconds * TRACK_RATE_HZ, axis=0, mode="nearest"))

    loudness = at(0, 0.010)
    return Articulation(
        loudness=loudness,
        voicing=at(1, 0.008),
        friction=at(2, 0.006),
        friction_hz=tracks.rows[:, 3],
        formants_hz=at(slice(4, 7), 0.022),
        # Lips move no faster than flesh does, and close when the voice stops.
        opening=at(7, 0.022) * np.clip(loudness / 0.25, 0.3, 1),
        roundness=at(8, 0.03),
        accent=np.asarray(gaussian_filter1d(tracks.accent, 0.05 * TRACK_RATE_HZ, mode="nearest")),
    )


def speak(plan: Articulation, voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """Samples of the plan in this voice: (T * HOP,) float64 at SAMPLE_RATE_HZ, no fixed level."""
    count = len(plan.loudness) * HOP
    pulses = _glottis(plan, voice, rng, count)
    hiss = rng.standard_normal(count)
    envelope = np.interp(np.arange(count), (np.arange(len(plan.loudness)) + 0.5) * HOP, plan.loudness)
    voicing = np.interp(np.arange(count), (np.arange(len(plan.voicing)) + 0.5) * HOP, plan.voicing)
    voiced = _filter_frames((pulses + voice.breath * hiss) * voicing * envelope, _formant_response(plan, voice))
    unvoiced = _filter_frames(hiss * envelope, _friction_response(plan, voice))
    return voiced + 0.5 * unvoiced


def _glottis(plan: Articulation, voice: Voice, rng: np.random.Generator, count: int) -> np.ndarray:
    """Derivative of a Rosenberg pulse train with jitter, shimmer and a falling pitch contour: (count,)."""
    frames = len(plan.accent)
    declination = np.linspace(0.5, -0.5, frames)
    wander = gaussian_filter1d(rng.standard_normal(frames), 1.5) * voice.jitter * 2.5
    semitones = voice.pitch_range_semitones * (0.6 * plan.accent + declination)
    f0_hz = voice.pitch_hz * 2 ** (semitones / 12) * (1 + wander)
    phase = np.cumsum(np.interp(np.arange(count), (np.arange(frames) + 0.5) * HOP, f0_hz)) / SAMPLE_RATE_HZ
    pulse = np.floor(phase).astype(int)
    shimmer = 1 + 0.06 * rng.standard_normal(pulse[-1] + 1)
    p = phase - pulse
    rise, close = 0.4, 0.6
    falling = np.cos(0.5 * np.pi * (p - rise) / (close - rise))
    flow = np.where(p < rise, 0.5 * (1 - np.cos(np.pi * p / rise)), np.where(p < close, falling, 0))
    return np.asarray(np.diff(flow * shimmer[pulse], prepend=0.0)) * SAMPLE_RATE_HZ / voice.pitch_hz / 8


_WINDOW = 4 * HOP
_FFT = 1024
_FREQUENCY_HZ = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE_HZ)


def _formant_response(plan: Articulation, voice: Voice) -> np.ndarray:
    """Vocal tract at each track frame: (T, _FFT // 2 + 1) complex."""
    moving = plan.formants_hz * voice.formant_scale * np.array(voice.formant_shift)
    fixed = np.tile(np.array(_HIGH_FORMANTS_HZ) * voice.formant_scale, (len(moving), 1))
    centres = np.concatenate([moving, fixed], axis=1)
    response = np.ones((len(moving), len(_FREQUENCY_HZ)), dtype=complex)
    for formant, width_hz in enumerate(_BANDWIDTHS_HZ):
        centre = centres[:, formant : formant + 1]
        response *= centre**2 / (centre**2 - _FREQUENCY_HZ**2 + 1j * _FREQUENCY_HZ * width_hz)
    # Poles above the band would lift the top again; this stands in for them. Lips radiate high-pass.
    lift = np.sqrt(1 + (_FREQUENCY_HZ / 2600) ** 4)
    glottis = 1 / np.sqrt(1 + (_FREQUENCY_HZ / voice.tilt_hz) ** 2)
    return np.asarray(response * lift * glottis)


def _friction_response(plan: Articulation, voice: Voice) -> np.ndarray:
    """Noise colour at each track frame: (T, _FFT // 2 + 1)."""
    centre = plan.friction_hz[:, None] * voice.formant_scale**0.5
    band = np.exp(-0.5 * (np.log((_FREQUENCY_HZ + 50) / centre) / 0.28) ** 2)
    return np.asarray(plan.friction[:, None] * band)


def _filter_frames(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Time-varying filter by overlap-add: samples (T * HOP,), response (T, bins) -> (T * HOP,)."""
    frames = len(response)
    padded = np.pad(samples, (_WINDOW // 2 - HOP // 2, _WINDOW))
    starts = np.arange(frames) * HOP
    window = np.hanning(_WINDOW + 1)[:-1] / 2
    blocks = padded[starts[:, None] + np.arange(_WINDOW)] * window
    filtered = np.fft.irfft(np.fft.rfft(blocks, _FFT) * response, _FFT)
    out = np.zeros(len(padded) + _FFT)
    for start, block in zip(starts, filtered, strict=True):
        out[start : start + _FFT] += block
    offset = _WINDOW // 2 - HOP // 2
    return out[offset : offset + len(samples)]
