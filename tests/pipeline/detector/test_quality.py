"""What a file is like, in words."""

from typing import Any

import numpy as np
import pytest

from pipeline.detector.quality import quality, sound_ends_hz
from pipeline.features.amounts import spectrum
from pipeline.params import FaceParams

GOOD: dict[str, Any] = {
    "face_px": 200.0, "face_share": 1.0, "fps": 25.0, "pictures": 250, "speech_s": 6.0, "ends_hz": 8000.0,
    "listens_to_hz": 8000.0,
}  # fmt: skip


def words(**changes: object) -> tuple[str, ...]:
    return quality(FaceParams(), **(GOOD | changes))


def test_a_good_file_is_only_described() -> None:
    assert words() == ("the face is 200 px wide", "25 pictures a second", "6.0 s of sound above silence")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"face_px": 38.0}, "the face is 38 px wide: enlarged 4.5 times for the networks"),
        ({"face_share": 0.38}, "no face for 62% of the time looked at"),
        ({"fps": 8.0}, "8 pictures a second: lips that close for 0.08 s may do so unseen"),
        ({"pictures": 5}, "5 pictures in all, fewer than the 8 that one window takes"),
        ({"ends_hz": 4300.0}, "the sound ends at 4.3 kHz: telephone, or resampled"),
        ({"ends_hz": 5600.0}, "the sound ends at 5.6 kHz of 8"),
        ({"speech_s": None, "ends_hz": None}, "no sound"),
    ],
)
def test_what_is_less_than_good_is_said(changes: dict[str, object], sentence: str) -> None:
    assert sentence in words(**changes)
    assert sentence not in words()


def test_where_a_sound_ends() -> None:
    """Noise, with nothing but what 16 bits leave beyond 3.4 kHz."""
    random = np.random.default_rng(0)
    noise = np.fft.rfft(random.normal(size=32000))
    for ends_hz in (3400, 8000):
        bins = noise.copy()
        bins[ends_hz * 2 :] = 0
        waves = (np.fft.irfft(bins) / 10 * 2**15).round().clip(-(2**15), 2**15 - 1).astype(np.int16)
        assert sound_ends_hz(spectrum(waves.reshape(2, 16000)), 16000) == pytest.approx(ends_hz, abs=100)
    assert sound_ends_hz(spectrum(np.zeros((1, 16000), np.int16)), 16000) is None
