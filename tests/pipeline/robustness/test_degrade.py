"""Each graph does what its name says, read back through the door as any file is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import correlate

from pipeline import media
from pipeline.robustness.degrade import DEGRADATIONS, SEVERITIES, Given, unchanged_picture, unchanged_sound
from tests.pipeline.clips import make_clip

T, H, W, FPS = 12, 72, 97, 25.0
RATE_HZ, SECONDS = 44_100, 2.0
Pictures = NDArray[np.float64]
Samples = NDArray[np.float32]
Degrade = Callable[[str, int], Pictures]
Hear = Callable[[str, int, Samples], Samples]


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    """(T, H, W, 3) waves of all colours with a little noise; an odd width, which H.264 cannot have."""
    y, x = np.mgrid[:H, :W]
    random = np.random.default_rng(0)
    waves = [
        np.stack([128 + 80 * np.sin(x / 9 + t / 5), 128 + 80 * np.cos(y / 7 - t / 6), (x * 2.5) % 256], axis=-1)
        for t in range(T)
    ]
    return np.clip(np.stack(waves) + random.normal(0, 3, (T, H, W, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def degrade(pictures: NDArray[np.uint8], tmp_path: Path) -> Degrade:
    """(name, severity; 0: none) -> the degraded pictures."""

    def made(name: str, severity: int) -> Pictures:
        raw, degradation = media.raw_pictures(W, H, fps=FPS), DEGRADATIONS[name]
        degraded = unchanged_picture(raw)
        if severity and degradation.graph:
            given = Given(1, width_px=W, height_px=H)
            degraded = degradation.graph(raw, degradation.values[severity - 1], given)
        path = tmp_path / f"{name}-{severity}"
        media.write_streams(path, [degraded.stream], [pictures.data], **degraded.options)
        found = media.probe(path)
        assert (len(found.times_s), round(found.fps)) == (T, FPS)
        return media.read_frames(path, found.times_s.tolist()).pixels[:, :H, :W].astype(float)

    return made


@pytest.fixture(scope="module")
def silent_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whose picture's time the sound is cut to."""
    path = tmp_path_factory.mktemp("robustness") / "clip.mp4"
    return make_clip(path, "-c:v", "libx264", "-preset", "ultrafast", sound=None, seconds=SECONDS)


@pytest.fixture
def hear(silent_clip: Path, tmp_path: Path) -> Hear:
    """(name, severity; 0: none, samples) -> the degraded samples, of the same rate."""

    def made(name: str, severity: int, samples: Samples) -> Samples:
        raw, degradation = media.raw_sound(sample_rate_hz=RATE_HZ), DEGRADATIONS[name]
        degraded = unchanged_sound(raw)
        if severity and degradation.graph:
            given = Given(1, rate_hz=RATE_HZ, level=float(np.sqrt(np.mean(samples**2))))
            degraded = degradation.graph(raw, degradation.values[severity - 1], given)
        path = tmp_path / f"{name}-{severity}"
        media.write_streams(path, [degraded.stream], [samples.tobytes()], **degraded.options)
        return media.read_sound(silent_clip, sample_rate_hz=RATE_HZ, audio=path).samples

    return made


def speech() -> Samples:
    """Bursts of a tone and noise, which have one best alignment."""
    t = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ
    random = np.random.default_rng(0)
    loud = random.random(40).repeat(len(t) // 40 + 1)[: len(t)]
    return (loud * (0.15 * np.sin(2 * np.pi * 440 * t) + 0.05 * random.standard_normal(len(t)))).astype(np.float32)


def clicks(*at_s: float) -> Samples:
    samples = np.zeros(round(SECONDS * RATE_HZ), np.float32)
    for at in at_s:
        samples[round(at * RATE_HZ) :][:24] = 0.5
    return samples


def lag_ms(heard: Samples, given: Samples) -> float:
    length = min(len(heard), len(given))
    return float(correlate(heard[:length], given[:length], method="fft").argmax() - (length - 1)) / RATE_HZ * 1000


def power_db(samples: Samples, low_hz: float, high_hz: float) -> float:
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    return 10 * float(np.log10(spectrum[(hz >= low_hz) & (hz < high_hz)].mean() + 1e-12))


@pytest.mark.parametrize(
    ("name", "apart"),
    [("h264", 0.2), ("scale", 0.1), ("blur", 0.5), ("noise", 1), ("brightness", 10), ("saturation", 5)],
)
def test_each_severity_of_a_picture_is_further_from_it(
    degrade: Degrade, pictures: NDArray[np.uint8], name: str, apart: float
) -> None:
    errors = [np.abs(degrade(name, severity) - pictures).mean() for severity in (1, 3, 5)]
    assert (np.diff([0.0, *errors]) > apart).all()


def test_pictures_that_nothing_is_done_to_come_back_to_the_bit(degrade: Degrade, pictures: NDArray[np.uint8]) -> None:
    assert (degrade("blur", 0) == pictures).all()


def test_h264_moves_no_colour(degrade: Degrade, pictures: NDArray[np.uint8]) -> None:
    """A wrong matrix or range would: by 5 grey levels or more."""
    assert np.abs((degrade("h264", 1) - pictures).mean(axis=(0, 1, 2))).max() < 2


def test_less_light_scales_and_less_colour_ends_in_grey(degrade: Degrade, pictures: NDArray[np.uint8]) -> None:
    assert degrade("brightness", 3).mean() / pictures.mean() == pytest.approx(0.5, abs=0.01)
    grey = degrade("saturation", 5)
    assert np.ptp(grey, axis=-1).max() <= 1
    assert np.abs(grey[..., 0] - pictures @ [0.2126, 0.7152, 0.0722]).mean() < 1


def test_noise_is_drawn_by_its_seed(degrade: Degrade) -> None:
    assert (degrade("noise", 2) == degrade("noise", 2)).all()


def test_sound_that_nothing_is_done_to_comes_back_to_the_bit(hear: Hear) -> None:
    assert (hear("mp3", 0, speech()) == speech()).all()


@pytest.mark.parametrize("name", ["mp3", "opus", "white-noise", "band-limit"])
@pytest.mark.parametrize("severity", [1, 5])
def test_sound_stays_in_step(hear: Hear, name: str, severity: int) -> None:
    assert abs(lag_ms(hear(name, severity, speech()), speech())) < 1


def test_a_higher_pitch_stays_in_step_within_half_a_picture(hear: Hear) -> None:
    for severity in (1, 5):
        heard = hear("pitch", severity, clicks(0.5, 1.0, 1.5))
        for at in (0.5, 1.0, 1.5):
            first = round((at - 0.2) * RATE_HZ)
            found_s = (first + np.abs(heard[first:][: round(0.4 * RATE_HZ)]).argmax()) / RATE_HZ
            assert abs(found_s - at) < 0.02


@pytest.mark.parametrize("severity", SEVERITIES)
def test_sound_is_late_by_so_many_milliseconds(hear: Hear, severity: int) -> None:
    heard = hear("shift", severity, speech())
    assert lag_ms(heard, speech()) == pytest.approx(DEGRADATIONS["shift"].values[severity - 1], abs=0.1)
    assert len(heard) == len(speech())  # what was pushed beyond the picture's end is gone


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_white_noise_has_the_ratio_that_it_says(hear: Hear, severity: int) -> None:
    noise = hear("white-noise", severity, speech()) - speech()
    ratio_db = 10 * np.log10(np.mean(speech() ** 2) / np.mean(noise**2))
    assert ratio_db == pytest.approx(DEGRADATIONS["white-noise"].values[severity - 1], abs=0.1)
    assert abs(power_db(noise, 100, 4000) - power_db(noise, 12_000, 20_000)) < 1  # white


@pytest.mark.parametrize("severity", [1, 5])
def test_a_band_limit_takes_what_is_above_and_leaves_what_is_below(hear: Hear, severity: int) -> None:
    limit = DEGRADATIONS["band-limit"].values[severity - 1]
    noise = (0.1 * np.random.default_rng(0).standard_normal(len(speech()))).astype(np.float32)
    heard = hear("band-limit", severity, noise)
    assert power_db(noise, 1.05 * limit, 20_000) - power_db(heard, 1.05 * limit, 20_000) > 30
    assert abs(power_db(noise, 100, 0.8 * limit) - power_db(heard, 100, 0.8 * limit)) < 0.5


def test_bit_rates_take_the_more_the_lower_they_are(hear: Hear) -> None:
    for name in ("mp3", "opus"):
        errors = [float(np.mean((hear(name, s, speech()) - speech()) ** 2)) for s in (1, 3, 5)]
        assert errors == sorted(errors)
        assert errors[2] > 1.1 * errors[0]


@pytest.mark.parametrize("severity", [1, 5])
def test_pitch_moves_a_tone_and_keeps_its_time(hear: Hear, severity: int) -> None:
    semitones = DEGRADATIONS["pitch"].values[severity - 1]
    t = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ
    heard = hear("pitch", severity, (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32))
    found_hz = np.abs(np.fft.rfft(heard)).argmax() * RATE_HZ / len(heard)
    assert found_hz == pytest.approx(440 * 2 ** (semitones / 12), rel=0.005)
    assert len(heard) / RATE_HZ == pytest.approx(SECONDS, abs=0.02)


def test_reverberation_decays_over_its_time(hear: Hear) -> None:
    decays_db = []
    for severity in (1, 3, 5):
        heard = hear("reverb", severity, clicks(0.1))
        energy = np.cumsum(heard[::-1] ** 2)[::-1]  # what is still to come (Schroeder)
        at = [round((0.1 + after) * RATE_HZ) for after in (0.01, 0.11)]
        decays_db.append(10 * float(np.log10(energy[at[0]] / energy[at[1]])))
        before, click = np.split(heard[: round(0.101 * RATE_HZ)], [round(0.0995 * RATE_HZ)])
        assert np.abs(before).max() < 1e-3
        assert np.abs(click).max() > 0.1  # in step
    expected = [60 * 0.1 / DEGRADATIONS["reverb"].values[severity - 1] for severity in (1, 3, 5)]
    assert decays_db == pytest.approx(expected, rel=0.15)


def test_every_degradation_has_five_severities_but_for_the_one_that_is_on_or_off() -> None:
    assert {name for name, d in DEGRADATIONS.items() if len(d.values) != len(SEVERITIES)} == {"silence-kept"}
