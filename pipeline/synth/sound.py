"""From a dry voice to the recorded sound: gate, microphone, loudness and room, the same in every category."""

from __future__ import annotations

import numpy as np
from scipy.signal import butter, lfilter, sosfilt

from pipeline.synth.identity import Stream
from pipeline.synth.take import FPS, SAMPLE_RATE_HZ, Take

_RAMP_S = 0.006


def record(take: Take, voice: np.ndarray) -> np.ndarray:
    """Sound of the whole clip (frames / FPS * SAMPLE_RATE_HZ,) float64 in -1..1 from the dry voice (N,).

    The gate comes after the voice path, so whatever that smears over its ends is cut where it is cut for real
    clips; the loudness is set after the gate, and the room's noise does not pass the voice path at all.
    """
    total = take.frames * SAMPLE_RATE_HZ // FPS
    start = round(take.lead_silence_s * SAMPLE_RATE_HZ)
    length = min(len(voice), total - start)
    ramp = min(length // 2, round(_RAMP_S * SAMPLE_RATE_HZ))
    gate = np.minimum(1, np.minimum(np.arange(length), np.arange(length)[::-1]) / ramp)
    low_pass = butter(6, take.mic_cutoff_hz, fs=SAMPLE_RATE_HZ, output="sos")
    dry = np.zeros(total)
    dry[start : start + length] = voice[:length] * gate
    heard = np.asarray(sosfilt(low_pass, dry))
    target = 10 ** (take.loudness_dbfs / 20)
    heard *= target / _rms(heard)
    rng = take.random(Stream.ROOM_NOISE)
    room = sosfilt(low_pass, lfilter([1], [1, -take.room_tilt], rng.standard_normal(total)))
    room *= target * 10 ** (-take.room_snr_db / 20) / _rms(room)
    return np.asarray(np.clip(heard + room, -1, 1))


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples**2)))
