"""Views: the same in every process, mild, and aligned with what they are views of."""

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, laplace

from pipeline.features import views
from pipeline.features.views import (
    KBPS,
    SNR_DB,
    VISUAL_STRENGTHS,
    SoundPlan,
    ViewError,
    VisualPlan,
    audio_view,
    mask_spectrogram,
    sound_plan,
    sound_view,
    visual_plan,
    visual_view,
)
from pipeline.params import SpectrogramParams
from pipeline.sound.clip import compute_spectrogram, from_pcm, to_pcm

T, S = 4, 96
RATE = 16000
PARAMS = SpectrogramParams()
PLAIN = VisualPlan(mirrored=False, side=1.0, left=0.0, top=0.0, changes=(), noise_seed=0)
QUIET = SoundPlan(gain_db=0.0, snr_db=None, codec=None, kbps=24.0, noise_seed=0)


def clip(frames: int = T, size: int = S) -> NDArray[np.uint8]:
    """(T, S, S, 3): smooth blobs that drift."""
    noise = np.random.default_rng(0).standard_normal((size, size, 3))
    smooth = gaussian_filter(noise, (5, 5, 0), mode="wrap")
    picture = (128 + 40 * smooth / smooth.std()).clip(0, 255).astype(np.uint8)
    return np.stack([np.roll(picture, 2 * i, axis=1) for i in range(frames)])


def sound(seconds: float = 1.0, rate_hz: int = RATE) -> NDArray[np.float32]:
    """(samples,): noise below 2 kHz, which has one sharp peak of correlation with itself."""
    samples = np.random.default_rng(0).standard_normal(round(seconds * rate_hz))
    smooth = gaussian_filter(samples, rate_hz / 12000)
    return (0.2 * smooth / smooth.std()).clip(-1, 1).astype(np.float32)


def planned(monkeypatch: pytest.MonkeyPatch, plan: VisualPlan | SoundPlan) -> None:
    """Lets every view follow `plan`."""
    name = "visual_plan" if isinstance(plan, VisualPlan) else "sound_plan"
    monkeypatch.setattr(views, name, lambda _key, _view: plan)


def seen(monkeypatch: pytest.MonkeyPatch, crops: NDArray[np.uint8], **changes: object) -> NDArray[np.uint8]:
    """A view of `crops` with the given changes only."""
    planned(monkeypatch, dataclasses.replace(PLAIN, **changes))
    return visual_view(crops, key="k", view=1)


def heard(
    monkeypatch: pytest.MonkeyPatch, samples: NDArray[np.float32], rate_hz: int = RATE, **changes: object
) -> NDArray[np.float32]:
    """A view of `samples` with the given changes only."""
    planned(monkeypatch, dataclasses.replace(QUIET, **changes))
    return from_pcm(audio_view(to_pcm(samples), rate_hz=rate_hz, key="k", view=1))


def fingerprint() -> str:
    """Of 24 views, picture and sound: every change is among them."""
    crops, waveform = clip(), to_pcm(sound())
    spectrogram = compute_spectrogram(sound()[None], PARAMS)[0]
    sha = hashlib.sha256()
    for view in range(24):
        sha.update(visual_view(crops, key="clip 1/0.5", view=view).tobytes())
        for array in sound_view(waveform, spectrogram, key="clip 1/0.5", view=view, params=PARAMS):
            sha.update(array.tobytes())
    return sha.hexdigest()


@pytest.mark.parametrize("threads", ["1", "4"])
def test_views_are_the_same_in_another_process_with_other_threads(threads: str) -> None:
    environment = os.environ | {"PYTHONHASHSEED": threads}
    argv = [sys.executable, "-m", "tests.pipeline.features.test_views", threads]
    root = Path(__file__).parents[3]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment, cwd=root)
    assert done.stdout.split() == [threads, fingerprint()]


def test_view_0_is_the_window_itself() -> None:
    crops, waveform = clip(), to_pcm(sound())
    spectrogram = np.zeros((80, 100), np.float32)
    assert visual_view(crops, key="k", view=0) is crops
    assert audio_view(waveform, rate_hz=RATE, key="k", view=0) is waveform
    assert mask_spectrogram(spectrogram, key="k", view=0) is spectrogram
    pair = sound_view(waveform, spectrogram, key="k", view=0, params=PARAMS)
    assert pair[0] is waveform
    assert pair[1] is spectrogram


@pytest.mark.parametrize(("frames", "size"), [(8, 64), (1, 64), (3, 65)])
def test_views_have_the_windows_shape_differ_and_leave_it_alone(frames: int, size: int) -> None:
    crops, waveform = clip(frames, size), to_pcm(sound())
    before = crops.copy(), waveform.copy()
    pictures = [visual_view(crops, key="k", view=view) for view in range(1, 9)]
    sounds = [audio_view(waveform, rate_hz=RATE, key="k", view=view) for view in range(1, 9)]
    for found, given in ((pictures, crops), (sounds, waveform)):
        assert all(x.shape == given.shape and x.dtype == given.dtype for x in found)
        assert len({x.tobytes() for x in (*found, given)}) == 9
    assert np.array_equal(crops, before[0])
    assert np.array_equal(waveform, before[1])


@pytest.mark.parametrize("plan", [visual_plan, sound_plan])
def test_plans_follow_from_key_and_view(plan: object) -> None:
    assert callable(plan)
    assert plan("a", 1) == plan("a", 1)
    assert len({plan(key, view) for key in "abc" for view in (1, 2, 12)}) == 9


def test_visual_changes_are_as_often_and_as_strong_as_documented() -> None:
    plans = [visual_plan(f"clip {i}", 1 + i % 3) for i in range(4000)]
    assert np.mean([plan.mirrored for plan in plans]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([len(plan.changes) for plan in plans]) == pytest.approx(1.5, abs=0.03)
    assert all(len({name for name, _ in plan.changes}) == len(plan.changes) for plan in plans)
    for name, (low, high) in VISUAL_STRENGTHS.items():
        strengths = [strength for plan in plans for n, strength in plan.changes if n == name]
        assert len(strengths) / 4000 == pytest.approx(3 / 8, abs=0.03)
        assert_uniform(strengths, low, high)
    assert_uniform([plan.side for plan in plans], 0.85, 1)
    assert_uniform([plan.left for plan in plans], 0, 1)
    assert_uniform([plan.top for plan in plans], 0, 1)


def test_sound_changes_are_as_often_and_as_strong_as_documented() -> None:
    plans = [sound_plan(f"clip {i}", 1 + i % 3) for i in range(4000)]
    assert_uniform([plan.gain_db for plan in plans], -6, 6)
    noisy = [plan.snr_db for plan in plans if plan.snr_db is not None]
    assert len(noisy) / 4000 == pytest.approx(2 / 3, abs=0.03)
    assert_uniform(noisy, *SNR_DB)
    assert not any(plan.snr_db is None and plan.codec is None for plan in plans)
    for codec, (low, high) in KBPS.items():
        rates = [plan.kbps for plan in plans if plan.codec == codec]
        assert len(rates) / 4000 == pytest.approx(1 / 3, abs=0.03)
        assert_uniform(rates, low, high)


def assert_uniform(values: list[float], low: float, high: float) -> None:
    """All within the range, and spread over all of it."""
    assert low <= min(values) < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < max(values) <= high
    assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.03 * (high - low))


def test_mirroring_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    crops = clip()
    assert np.array_equal(seen(monkeypatch, crops), crops)
    assert np.array_equal(seen(monkeypatch, crops, mirrored=True), crops[:, :, ::-1])


@pytest.mark.parametrize(("left", "top"), [(0.0, 1.0), (1.0, 0.0), (0.5, 0.5)])
def test_a_crop_is_scaled_back(monkeypatch: pytest.MonkeyPatch, left: float, top: float) -> None:
    x, y = np.meshgrid(np.arange(100), np.arange(100))
    crops = np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)[None]
    found = seen(monkeypatch, crops, side=0.9, left=left, top=top)[0].astype(int)
    assert found[50, 1, 0] == pytest.approx(10 * left, abs=1)
    assert found[50, -2, 0] == pytest.approx(10 * left + 89, abs=1)
    assert found[1, 50, 1] == pytest.approx(10 * top, abs=1)
    assert found[-2, 50, 1] == pytest.approx(10 * top + 89, abs=1)


@pytest.mark.parametrize(
    ("name", "mild", "strong", "most"),
    [("jpeg", 90, 40, 6), ("h264", 23, 35, 9), ("blur", 0.5, 1.5, 3), ("noise", 1, 6, 7)],
)
def test_changes_are_small_grow_with_their_strength_and_keep_colours(
    monkeypatch: pytest.MonkeyPatch, name: str, mild: float, strong: float, most: float
) -> None:
    crops = clip().astype(float)
    error = []
    for strength, shift, contrast in ((mild, 0.5, 0.05), (strong, 1, 0.15)):
        found = seen(monkeypatch, clip(), changes=((name, strength),)).astype(float)
        error.append(np.sqrt(np.mean((found - crops) ** 2)))
        assert np.abs(found.mean((0, 1, 2)) - crops.mean((0, 1, 2))).max() < shift
        slope = [np.polyfit(crops[..., c].ravel(), found[..., c].ravel(), 1)[0] for c in range(3)]
        assert slope == pytest.approx([1, 1, 1], abs=contrast)
    assert 0.1 < error[0] < error[1] < most


def test_noise_is_as_strong_as_planned_and_differs_between_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = np.full((T, S, S, 3), 128, np.uint8)
    noise = seen(monkeypatch, grey, changes=(("noise", 4.0),)).astype(float) - 128
    assert noise.std() == pytest.approx(4, rel=0.02)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.05
    other = seen(monkeypatch, grey, changes=(("noise", 4.0),), noise_seed=1).astype(float) - 128
    assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.05


def test_blur_takes_detail_away(monkeypatch: pytest.MonkeyPatch) -> None:
    crops = np.random.default_rng(0).integers(0, 255, (T, S, S, 3), dtype=np.uint8)
    detail = [
        laplace(seen(monkeypatch, crops, changes=changes)[0, ..., 0].astype(float)).std()
        for changes in ((), (("blur", 0.5),), (("blur", 1.5),))
    ]
    assert detail[0] > 1.5 * detail[1] > 3 * detail[2]


@pytest.mark.parametrize("change", [("jpeg", 60.0), ("blur", 1.0)])
def test_frames_are_treated_alike(monkeypatch: pytest.MonkeyPatch, change: tuple[str, float]) -> None:
    crops = np.repeat(clip(1), T, axis=0)
    found = seen(monkeypatch, crops, mirrored=True, side=0.9, left=0.3, changes=(change,))
    assert all(np.array_equal(frame, found[0]) for frame in found)


def test_h264_keeps_the_frames_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder reorders them (B-frames) and holds some back until it is flushed."""
    crops = np.stack([np.full((64, 64, 3), 40 + 20 * i, np.uint8) for i in range(9)])
    found = seen(monkeypatch, crops, changes=(("h264", 30.0),))
    assert found.mean((1, 2, 3)) == pytest.approx(40 + 20 * np.arange(9), abs=3)


def lag_s(one: NDArray[np.float32], other: NDArray[np.float32], rate_hz: int) -> tuple[float, float]:
    """(seconds by which `other` is late, the correlation there): the peak of the cross-correlation."""
    size = 2 * len(one)
    products = np.fft.irfft(np.fft.rfft(other, size) * np.conj(np.fft.rfft(one, size)), size)
    peak = int(products.argmax())
    late = peak if peak < len(one) else peak - size
    return late / rate_hz, float(products[peak] / np.sqrt(np.sum(one**2) * np.sum(other**2)))


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 44100, 48000])
@pytest.mark.parametrize(("codec", "kbps"), [("mp3", 24.0), ("mp3", 64.0), ("opus", 12.0), ("opus", 32.0)])
def test_re_encoded_sound_is_neither_shifted_nor_cut(
    monkeypatch: pytest.MonkeyPatch, codec: str, kbps: float, rate_hz: int
) -> None:
    given = sound(1.0, rate_hz)
    found = heard(monkeypatch, given, rate_hz, codec=codec, kbps=kbps)
    assert len(found) == len(given)
    tenth = len(given) // 10
    for part in (slice(None), slice(tenth), slice(-tenth, None)):
        late_s, correlation = lag_s(given[part], found[part], rate_hz)
        assert abs(late_s) <= 0.002
        assert correlation > 0.7


def test_re_encoding_loses_more_at_a_lower_bit_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    given = np.random.default_rng(0).normal(0, 0.2, RATE).clip(-1, 1).astype(np.float32)
    for codec, (low, high) in KBPS.items():
        error = [np.square(heard(monkeypatch, given, codec=codec, kbps=kbps) - given).mean() for kbps in (low, high)]
        assert error[0] > 1.2 * error[1] > 0


@pytest.mark.parametrize("gain_db", [-6.0, 3.0])
def test_gain_is_as_planned(monkeypatch: pytest.MonkeyPatch, gain_db: float) -> None:
    given = sound() / 4
    ratio = np.std(heard(monkeypatch, given, gain_db=gain_db)) / np.std(given)
    assert 20 * np.log10(ratio) == pytest.approx(gain_db, abs=0.01)


def test_gain_never_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    given = (0.9 * np.sin(np.arange(RATE) / 7)).astype(np.float32)
    found = heard(monkeypatch, given, gain_db=6.0)
    np.testing.assert_allclose(found, given / np.abs(given).max(), atol=1e-4)


@pytest.mark.parametrize("snr_db", SNR_DB)
def test_noise_has_the_planned_level(monkeypatch: pytest.MonkeyPatch, snr_db: float) -> None:
    given = sound(4.0)
    noise = heard(monkeypatch, given, snr_db=snr_db) - given
    assert 20 * np.log10(np.std(given) / np.std(noise)) == pytest.approx(snr_db, abs=0.1)
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.02
    assert not np.array_equal(noise, heard(monkeypatch, given, snr_db=snr_db, noise_seed=1) - given)


@pytest.mark.parametrize("view", range(1, 7))
def test_silence_stays_silent(view: int) -> None:
    """What a clip without sound holds where `missing_modality` lets it pass."""
    assert np.abs(audio_view(np.zeros(RATE, np.int16), rate_hz=RATE, key="k", view=view)).max() <= 1


def test_the_spectrogram_is_that_of_the_changed_sound_masked() -> None:
    waveform = to_pcm(sound())
    changed, spectrogram = sound_view(waveform, np.zeros((80, 100), np.float32), key="k", view=3, params=PARAMS)
    assert np.array_equal(changed, audio_view(waveform, rate_hz=RATE, key="k", view=3))
    plain = compute_spectrogram(from_pcm(changed)[None], PARAMS)[0]
    assert np.array_equal(spectrogram, mask_spectrogram(plain, key="k", view=3))
    assert not np.array_equal(spectrogram, plain)


def test_masks_cover_bands_and_hops_with_the_mean() -> None:
    spectrogram = np.random.default_rng(0).normal(3, 1, (80, 400)).astype(np.float32)
    bands, hops = [], []
    for view in range(1, 400):
        masked = mask_spectrogram(spectrogram, key="k", view=view)
        covered = masked == spectrogram.mean()
        assert np.array_equal(masked[~covered], spectrogram[~covered])
        bands.append(covered.all(axis=1).sum())
        hops.append(covered.all(axis=0).sum())
        assert np.array_equal(covered, covered.all(axis=1)[:, None] | covered.all(axis=0)[None])
    # One or two of 0 to 10 % each: 7.5 % on average, a little less where two of them overlap.
    assert (np.mean(bands) / 80, np.mean(hops) / 400) == pytest.approx((0.073, 0.073), abs=0.01)
    assert 8 < max(bands) <= 16
    assert 40 < max(hops) <= 80


def test_the_smallest_spectrogram_can_be_masked() -> None:
    for view in range(1, 20):
        tiny = np.arange(40, dtype=np.float32).reshape(8, 5)
        assert np.array_equal(mask_spectrogram(tiny, key="k", view=view), tiny)


def test_a_missing_encoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str, _mode: str) -> None:
        raise av.codec.codec.UnknownCodecError(name)

    monkeypatch.setattr(av, "Codec", none)
    with pytest.raises(ViewError, match=r"no encoder libx264 .*pip install .* av.* features\.views: 1"):
        seen(monkeypatch, clip(), changes=(("h264", 30.0),))
    with pytest.raises(ViewError, match="no encoder libmp3lame"):
        heard(monkeypatch, sound(), codec="mp3")


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    print(torch.get_num_threads(), fingerprint())
