"""Explanations point to what the networks really read: here it is planted, so that the answer is known."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.detector.explain import SHOWN_WINDOWS, Explainer, effect
from pipeline.detector.occlude import BANDS, bands, face_regions, without_band, without_pixels
from pipeline.detector.road import Walked
from pipeline.params import Params
from pipeline.sound.clip import compute_spectrogram, from_pcm, to_pcm

PARAMS = Params()
FRAMES, SIZE, LENGTH = PARAMS.faces.frames, PARAMS.faces.size_px, PARAMS.features.length
RATE, WINDOW_S = PARAMS.spectrograms.sample_rate_hz, PARAMS.windows.window_s
HERE = {"mouth": (112, 156), "eyes": (82, 90), "skin": (112, 105), "border": (112, 26), "background": (5, 5)}
"""(x, y) in a crop of an upright face."""
Planted = Callable[[Mapping[str, NDArray[Any]]], float]
"""What the network reads of a window."""


def window(seed: int = 0) -> dict[str, NDArray[Any]]:
    """Noise to see and to hear; a face as MTCNN would find it, 200 px wide, in the middle of (300, 200)."""
    random = np.random.default_rng(seed)
    wave = random.normal(0, 0.1, round(WINDOW_S * RATE)).astype(np.float32)
    points = np.array([[-0.172, -0.13], [0.172, -0.13], [0.0, 0.065], [-0.142, 0.255], [0.142, 0.255]])
    return {
        "crops": random.integers(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8),
        "boxes": np.tile(np.array([220, 100, 380, 300], np.float32), (FRAMES, 1)),
        "landmarks": np.tile((200 * points + (300, 200)).astype(np.float32), (FRAMES, 1, 1)),
        "waveform": to_pcm(wave),
        "spectrogram": compute_spectrogram(wave[None], PARAMS.spectrograms)[0],
    }


def walked(windows: list[dict[str, NDArray[Any]]], layers: Mapping[str, NDArray[Any]], **changes: Any) -> Walked:
    return Walked(
        **{
            "starts_s": tuple(4.0 * i for i in range(len(windows))),
            "layers": layers,
            "arrays": {name: np.stack([each[name] for each in windows]) for name in windows[0]},
            "available_s": WINDOW_S,
            "looked_at_s": (),
            "has_audio": True,
            "planned": len(windows),
            "face_windows": 1.0,
            "powers": (np.zeros(0, np.int64), np.zeros(0)),
            "faces": (),
            **changes,
        }
    )


def explainer(read: Planted) -> Explainer:
    """Of a detector with one layer a modality, whose P(fake) is odds of 10 to the sum of what both say."""

    def rows(
        windows: Mapping[float, Mapping[str, NDArray[Any]]], modalities: Collection[str]
    ) -> tuple[dict[str, NDArray[Any]], dict[int, str]]:
        found = np.array([read(each) for each in windows.values()])
        return {f"{m}/net": np.tile(found[:, None, None], (1, LENGTH, 1)) for m in modalities}, {}

    def scores(_: str, layers: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        return np.asarray(1 / (1 + 10 ** -sum(x.mean(axis=(1, 2), dtype=float) for x in layers.values())))

    return Explainer(PARAMS, rows, scores)


def one_window(read: Planted) -> Walked:
    seen = window()
    return walked([seen], {name: np.full((1, LENGTH, 1), read(seen)) for name in ("visual/net", "audio/net")})


@pytest.mark.parametrize("region", HERE)
def test_the_region_that_is_read_has_the_effect(region: str) -> None:
    """The network reads the fine detail about one place of a crop."""
    x, y = HERE[region]

    def detail(seen: Mapping[str, NDArray[Any]]) -> float:
        return float(seen["crops"][:, y - 3 : y + 4, x - 3 : x + 4].std()) / 100

    asked = explainer(detail)
    asked.add(one_window(detail))
    found = asked.explanation().regions
    assert list(found) == list(HERE)
    assert found.pop(region) > 0.3
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize("band", range(BANDS))
def test_the_band_that_is_read_has_the_effect(band: int) -> None:
    low, high = list(bands(PARAMS.spectrograms))[band]

    def power(seen: Mapping[str, NDArray[Any]]) -> float:
        spectrum = np.abs(np.fft.rfft(from_pcm(seen["waveform"])))
        hz = np.fft.rfftfreq(len(seen["waveform"]), 1 / RATE)
        return float(np.square(spectrum[(hz >= low) & (hz < high)]).mean()) / 1000

    asked = explainer(power)
    asked.add(one_window(power))
    found = asked.explanation().bands
    assert [(each.low_hz, each.high_hz) for each in found] == list(bands(PARAMS.spectrograms))
    effects = np.array([each.effect for each in found])
    assert effects.argmax() == band
    assert effects[band] > 0.1
    assert np.abs(np.delete(effects, band)).max() < 0.01 * effects[band]


@pytest.mark.parametrize("kind", ["log_mel", "linear"])
def test_a_band_is_gone_from_the_spectrogram_too(kind: Literal["log_mel", "linear"]) -> None:
    """As from that of the sound without it."""
    params = PARAMS.spectrograms.model_copy(update={"kind": kind})
    seen = window()
    seen["spectrogram"] = compute_spectrogram(from_pcm(seen["waveform"])[None], params)[0]
    gone = np.zeros(len(seen["spectrogram"]), int)
    for low, high in bands(params):
        without = without_band(seen, low, high, params)
        changed = (seen["spectrogram"] != without["spectrogram"]).mean(axis=1) > 0.9
        assert set(without["spectrogram"][changed].ravel()) == {seen["spectrogram"].min()}
        heard = compute_spectrogram(from_pcm(without["waveform"])[None], params)[0]
        assert (heard - seen["spectrogram"])[changed].mean() < -3
        assert abs((heard - seen["spectrogram"])[~changed].mean()) < 0.2
        gone += changed
    assert set(gone[:-1]) == {1}  # the last bin of a linear one lies at half the sample rate


def test_moments_and_layers_that_are_read_have_the_effect() -> None:
    """Of two windows the second one is fake, in its position 3, by one layer; it is the one whose parts are told."""
    layers = {name: np.zeros((2, LENGTH, 2)) for name in ("visual/a", "visual/b", "audio/a")}
    layers["visual/b"][1, 3] = 16.0
    asked = explainer(lambda _: 0.0)
    asked.add(walked([window(0), window(1)], layers))
    found = asked.explanation()
    assert found.window_s == 4.0
    step_s = WINDOW_S / LENGTH
    assert [each.start_s for each in found.moments] == pytest.approx([i * step_s for i in range(2 * LENGTH)])
    most = max(found.moments, key=lambda each: each.effect)
    assert (most.start_s, most.end_s) == pytest.approx((4 + 3 * step_s, 4 + 4 * step_s))
    assert most.effect == pytest.approx(2.0)
    assert all(each.effect < 0 or each.effect == 0 for each in found.moments if each != most)
    assert found.layers["visual/b"] > 0.3
    assert [found.layers[name] for name in ("visual/a", "audio/a")] == [0, 0]


def test_what_a_short_clip_repeats_is_told_once_and_silence_has_no_bands() -> None:
    asked = explainer(lambda _: 0.0)
    layers = {"visual/net": np.ones((1, LENGTH, 1)), "audio/net": np.zeros((1, LENGTH, 1))}
    asked.add(walked([window()], layers, available_s=1.2, has_audio=False))
    found = asked.explanation()
    assert [(each.start_s, each.end_s) for each in found.moments] == [(0, 0.5), (0.5, 1.0), (1.0, 1.2)]
    assert found.bands == ()
    assert list(found.layers) == ["visual/net"]


def test_of_a_long_file_the_windows_that_look_most_fake_are_kept() -> None:
    asked = explainer(lambda _: 0.0)
    strength = np.random.default_rng(0).permutation(3 * SHOWN_WINDOWS) / 10
    for part in np.split(np.arange(len(strength)), 4):
        layers = {"visual/net": np.tile(strength[part, None, None], (1, LENGTH, 1))}
        seen = window(int(part[0]))
        asked.add(walked([seen] * len(part), layers, starts_s=tuple(map(float, part))))
    looked_at = asked.looked_at()
    assert looked_at.starts_s == tuple(sorted(np.argsort(strength)[-SHOWN_WINDOWS:].astype(float)))
    assert looked_at.crops.shape == (SHOWN_WINDOWS, FRAMES, SIZE, SIZE, 3)
    assert looked_at.spectrogram.shape == (SHOWN_WINDOWS, 80, 400)
    assert asked.explanation().window_s == float(strength.argmax())
    assert len(asked.explanation().moments) == len(strength) * LENGTH


def test_regions_cover_a_crop_and_follow_a_face_that_is_tilted() -> None:
    seen = window()
    masks = face_regions(seen, PARAMS.faces)
    assert (np.sum(list(masks.values()), axis=0) == 1).all()
    bare = PARAMS.faces.model_copy(update={"align": "none"})
    turn = np.exp(1j * np.deg2rad(30)) * ((seen["landmarks"] - (300, 200)) @ [1, 1j])
    tilted = {**seen, "landmarks": np.stack([turn.real + 300, turn.imag + 200], axis=2)}
    mouth = face_regions(tilted, bare)["mouth"][0]
    middle = np.argwhere(mouth).mean(axis=0)[::-1] + 0.5
    along = np.array([-np.sin(np.deg2rad(30)), np.cos(np.deg2rad(30))])
    assert middle == pytest.approx(SIZE / 2 + 0.255 * 200 * along * SIZE / 260, abs=1)


def test_outside_of_what_is_taken_away_nothing_changes() -> None:
    seen = window()
    for mask in face_regions(seen, PARAMS.faces).values():
        without = without_pixels(seen["crops"], mask)
        assert np.array_equal(without[~mask], seen["crops"][~mask])
        assert without[mask].std() < seen["crops"][mask].std() / 4


def test_an_effect_is_a_fall_of_log10_odds_and_a_number_for_the_surest_score() -> None:
    assert effect(10 / 11, 0.5) == pytest.approx(1.0)
    assert effect(0.5, 10 / 11) == pytest.approx(-1.0)
    assert effect(1.0, 1.0) == 0
    assert np.isfinite(effect(1.0, 0.0))
