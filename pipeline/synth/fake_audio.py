"""Audio manipulations: lossy voice paths between the dry voice and the room, which treats all categories alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from pipeline.synth.identity import Voice
from pipeline.synth.take import SAMPLE_RATE_HZ

_FFT = 512
_HOP = 128
_WINDOW = np.sqrt(np.hanning(_FFT + 1)[:-1])
_GAIN = 2.0  # sum of the squared windows that overlap at any sample
_BINS_HZ = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE_HZ)


@dataclass(frozen=True)
class VoiceQuality:
    """How lossy the voice path is: from crude (difficulty 0) to hardly audible (1)."""

    mel_bands: int
    phase_rounds: int
    cutoff_hz: float
    hold_frames: int  # envelopes that are frozen together
    phase_noise: float  # radians

    @staticmethod
    def at(difficulty: float) -> VoiceQuality:
        """Quality at a difficulty in 0..1."""

        def between(crude: float, fine: float) -> float:
            return crude + difficulty * (fine - crude)

        return VoiceQuality(
            mel_bands=round(16 * 10**difficulty),
            phase_rounds=round(between(1, 40)),
            cutoff_hz=between(4200, 7800),
            hold_frames=max(1, round(between(11, 1))),
            phase_noise=between(1.6, 0.05),
        )


def revoice(
    method: str, samples: np.ndarray, *, voice: Voice, donor: Voice, difficulty: float, rng: np.random.Generator
) -> np.ndarray:
    """Samples (N,) after the lossy voice path of an audio method: (N,)."""
    quality = VoiceQuality.at(difficulty)
    if method == "vocoder":
        return _vocoder(samples, quality, rng)
    if method == "formant-transfer":
        return _formant_transfer(samples, voice, donor, quality, rng)
    raise ValueError(f"method is {method!r}, allowed are 'vocoder' and 'formant-transfer'")


def _vocoder(samples: np.ndarray, quality: VoiceQuality, rng: np.random.Generator) -> np.ndarray:
    """Mel magnitudes only; the phase is rebuilt from noise by a few rounds of Griffin and Lim."""
    bank = _mel_bank(quality.mel_bands, quality.cutoff_hz)
    # Mean magnitude of each band, spread over the band's bins again. Not by BLAS: its sums may depend on the
    # number of threads, and the same seed has to give the same samples in every process.
    bands = np.einsum("tf,bf->tb", np.abs(_stft(samples)), bank / bank.sum(1, keepdims=True))
    magnitude = np.einsum("tb,bf->tf", bands, bank / np.maximum(bank.sum(0), 1e-3))
    phase = np.exp(1j * rng.uniform(-np.pi, np.pi, magnitude.shape))
    for _ in range(quality.phase_rounds):
        guess = _stft(_istft(magnitude * phase, len(samples)))
        phase = guess / np.maximum(np.abs(guess), 1e-9)
    return _istft(magnitude * phase, len(samples))


def _formant_transfer(
    samples: np.ndarray, voice: Voice, donor: Voice, quality: VoiceQuality, rng: np.random.Generator
) -> np.ndarray:
    """The donor's vocal tract on this prosody: the spectral envelope is taken out, warped, put back in blocks."""
    spectrum = _stft(samples)
    logarithm = np.log(np.abs(spectrum) + 1e-4 * np.abs(spectrum).max())
    # Smoothed over a bit more than a pitch harmonic.
    envelope = np.asarray(gaussian_filter1d(logarithm, 220 / _BINS_HZ[1], axis=1, mode="nearest"))
    stretch = donor.formant_scale / voice.formant_scale
    # Related voices would hardly differ: the warp is never smaller than a twelfth.
    stretch = max(stretch, 1.08) if stretch >= 1 else min(stretch, 1 / 1.08)
    warped = np.stack([np.interp(_BINS_HZ / stretch, _BINS_HZ, row) for row in envelope])
    block = np.arange(len(warped)) // quality.hold_frames
    counts = np.bincount(block)
    held = np.stack([np.bincount(block, column) / counts for column in warped.T], axis=1)[block]
    level = (logarithm.mean(1) - held.mean(1))[:, None]
    roll_off = 1 / (1 + (_BINS_HZ / quality.cutoff_hz) ** 16)
    phase = quality.phase_noise * rng.standard_normal((len(counts), len(_BINS_HZ)))[block]
    changed = spectrum * np.exp(held + level - envelope + 1j * phase) * roll_off
    return _istft(changed, len(samples))


def _mel_bank(bands: int, cutoff_hz: float) -> np.ndarray:
    """Triangles (bands, bins) equally spaced in mel from 50 Hz to the cutoff; each covers at least a bin."""
    mel = np.linspace(_mel(50.0), _mel(cutoff_hz), bands + 2)
    edges_hz = 700 * (10 ** (mel / 2595) - 1)
    centre = edges_hz[1:-1, None]
    below = np.maximum(centre - edges_hz[:-2, None], _BINS_HZ[1])
    above = np.maximum(edges_hz[2:, None] - centre, _BINS_HZ[1])
    return np.asarray(np.clip(np.minimum(1 - (centre - _BINS_HZ) / below, 1 - (_BINS_HZ - centre) / above), 0, 1))


def _mel(frequency_hz: float) -> float:
    return float(2595 * np.log10(1 + frequency_hz / 700))


def _stft(samples: np.ndarray) -> np.ndarray:
    padded = np.pad(samples, (_FFT, _FFT + -len(samples) % _HOP))
    starts = np.arange(0, len(padded) - _FFT + 1, _HOP)
    return np.asarray(np.fft.rfft(padded[starts[:, None] + np.arange(_FFT)] * _WINDOW))


def _istft(spectrum: np.ndarray, length: int) -> np.ndarray:
    blocks = np.fft.irfft(spectrum, _FFT) * _WINDOW / _GAIN
    out = np.zeros(_HOP * (len(blocks) - 1) + _FFT)
    for start, block in zip(range(0, len(out), _HOP), blocks, strict=False):
        out[start : start + _FFT] += block
    return np.asarray(out[_FFT : _FFT + length])
