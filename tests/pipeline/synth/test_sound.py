"""Synthetic speech, its lossy voice paths, and the recording chain that all categories share."""

import dataclasses

import numpy as np
import pytest

from pipeline.synth.fake_audio import revoice
from pipeline.synth.identity import Voice, draw_identity
from pipeline.synth.plan import AUDIO_METHODS
from pipeline.synth.sound import record
from pipeline.synth.speech import HOP, TRACK_RATE_HZ, Articulation, plan_speech, speak
from pipeline.synth.take import FPS, SAMPLE_RATE_HZ, draw_take

DURATION_S = 3.0


@pytest.fixture(scope="module")
def articulation() -> Articulation:
    return plan_speech(np.random.default_rng(3), DURATION_S, tempo=1.0)


def say(articulation: Articulation, voice: Voice) -> np.ndarray:
    return speak(articulation, voice, np.random.default_rng(4))


def envelope(samples: np.ndarray, block: int) -> np.ndarray:
    """RMS of blocks of samples (T,)."""
    return np.asarray(np.sqrt((samples[: len(samples) // block * block].reshape(-1, block) ** 2).mean(1)))


def test_speech_has_the_planned_length_and_the_speakers_pitch(articulation: Articulation) -> None:
    for index in (0, 1, 2, 3):
        voice = draw_identity(0, index).voice
        samples = say(articulation, dataclasses.replace(voice, pitch_range_semitones=0.5, jitter=0.001))
        assert samples.shape == (round(DURATION_S * SAMPLE_RATE_HZ),)
        spectrum = np.abs(np.fft.rfft(samples, 2 * len(samples))) ** 2
        lags = np.fft.irfft(spectrum)[: SAMPLE_RATE_HZ // 60]
        shortest = SAMPLE_RATE_HZ // 300
        period = shortest + int(np.argmax(lags[shortest:]))
        ratio = SAMPLE_RATE_HZ / period / voice.pitch_hz
        # Autocorrelation may prefer two periods; anything else is a wrong pitch.
        assert min(abs(ratio - 1), abs(2 * ratio - 1)) < 0.06


def test_loudness_of_the_samples_follows_the_plan_without_a_lag(articulation: Articulation) -> None:
    heard = envelope(say(articulation, draw_identity(0, 0).voice), HOP)
    reach = TRACK_RATE_HZ // FPS
    scores = [np.corrcoef(np.roll(articulation.loudness, lag), heard)[0, 1] for lag in range(-reach, reach + 1)]
    assert max(scores) > 0.6
    assert abs(int(np.argmax(scores)) - reach) / TRACK_RATE_HZ < 0.5 / FPS


def test_mouth_is_shut_in_silence_and_open_in_vowels(articulation: Articulation) -> None:
    lead_silence_s = 0.4
    mouth = articulation.mouth(90, lead_silence_s)
    assert mouth.shape == (90, 2)
    assert mouth[: int(lead_silence_s * FPS) - 1, 0].max() < 0.05
    assert mouth[:, 0].max() > 0.6
    assert mouth[-3:, 0].max() < 0.05  # 90 frames end after the speech does


def test_articulation_does_not_depend_on_the_voice_but_the_sound_does(articulation: Articulation) -> None:
    first, second = (say(articulation, draw_identity(0, index).voice) for index in (0, 1))
    correlation = np.corrcoef(envelope(first, HOP), envelope(second, HOP))[0, 1]
    assert correlation > 0.6
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5


def log_spectrum(samples: np.ndarray) -> np.ndarray:
    blocks = samples[: len(samples) // 512 * 512].reshape(-1, 512) * np.hanning(512)
    return np.log(np.abs(np.fft.rfft(blocks)) + 1e-3 * np.abs(blocks).max())


@pytest.mark.parametrize("method", AUDIO_METHODS)
def test_lossy_voice_path_keeps_the_prosody_and_loses_less_when_difficult(
    method: str, articulation: Articulation
) -> None:
    voice, donor = draw_identity(0, 0).voice, draw_identity(0, 1).voice
    real = say(articulation, voice)
    distance = {}
    for difficulty in (0.0, 0.3, 1.0):
        rng = np.random.default_rng(5)
        fake = revoice(method, real, voice=voice, donor=donor, difficulty=difficulty, rng=rng)
        assert fake.shape == real.shape
        assert np.isfinite(fake).all()
        syllables = [envelope(samples, SAMPLE_RATE_HZ // FPS) for samples in (real, fake)]
        assert np.corrcoef(*syllables)[0, 1] > 0.6
        distance[difficulty] = np.abs(log_spectrum(real) - log_spectrum(fake / fake.std() * real.std())).mean()
    assert distance[0.0] > distance[0.3] > distance[1.0] > 0


def test_unknown_voice_path_is_named(articulation: Articulation) -> None:
    voice = draw_identity(0, 0).voice
    with pytest.raises(ValueError, match=r"'flanger'.*vocoder"):
        revoice("flanger", np.ones(99), voice=voice, donor=voice, difficulty=0, rng=np.random.default_rng())


def test_recording_sets_silence_and_loudness_whatever_the_voice_path_did() -> None:
    take = draw_take(0, 0, 0)
    count = round(take.speech_s * SAMPLE_RATE_HZ)
    rng = np.random.default_rng(0)
    clean = rng.standard_normal(count)
    # A voice path that smears over its ends, ten times too loud.
    smeared = 10 * np.convolve(clean, np.ones(900), mode="full")
    lead = round(take.lead_silence_s * SAMPLE_RATE_HZ)
    first, second = record(take, clean), record(take, smeared[:count])
    assert first.shape == second.shape == (take.frames * SAMPLE_RATE_HZ // FPS,)
    np.testing.assert_array_equal(first[:lead], second[:lead])
    for sound in (first, second):
        loudness_dbfs = 10 * np.log10(np.mean(sound**2))
        assert loudness_dbfs == pytest.approx(take.loudness_dbfs, abs=0.2)
