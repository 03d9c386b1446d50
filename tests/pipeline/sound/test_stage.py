"""Sound to spectrograms."""

import re
from pathlib import Path

import numpy as np
import pytest

from cache_schemas.manifest import read_quarantine, write_manifest
from pipeline.manifest.facts import clip_facts
from pipeline.media import NoAudioError
from pipeline.params import Params, SpectrogramParams
from pipeline.sound.clip import compute_spectrogram, from_pcm, leading_silence_s, to_pcm
from pipeline.sound.stage import build_spectrograms, spectrogram_key
from pipeline.workspace import Workspace
from tests.pipeline.broken_sound import UNHEARD
from tests.pipeline.conftest import small_params
from tests.pipeline.test_faults import clip_of

RATE = 16000


def tone(hz: float, seconds: float) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


@pytest.mark.parametrize("silence", [0.0, 0.03, 0.5])
@pytest.mark.parametrize("floor", [0.0, 0.001])
def test_leading_silence_is_measured(silence: float, floor: float) -> None:
    noise = np.random.default_rng(0).standard_normal(RATE * 2).astype(np.float32) * floor
    samples = noise.copy()
    samples[int(silence * RATE) :] += 0.5 * tone(200, 2 - silence)[: len(samples) - int(silence * RATE)]
    assert leading_silence_s(samples, sample_rate_hz=RATE, silence_db=40) == pytest.approx(silence, abs=0.0101)


def test_a_silent_track_is_no_sound() -> None:
    with pytest.raises(NoAudioError, match="silent throughout"):
        leading_silence_s(np.zeros(RATE, np.float32), sample_rate_hz=RATE, silence_db=40)


@pytest.mark.parametrize(("kind", "bands"), [("log_mel", 80), ("linear", 257)])
def test_shapes_and_the_band_of_a_tone(kind: str, bands: int) -> None:
    params = SpectrogramParams(kind=kind)
    waves = np.stack([tone(1000, 4), tone(3000, 4)])
    spectrogram = compute_spectrogram(waves, params)
    assert spectrogram.shape == (2, bands, 400)
    loudest = spectrogram.mean(axis=2).argmax(axis=1)
    if kind == "linear":
        assert loudest.tolist() == [32, 96]  # hz * n_fft / rate
    else:
        assert loudest[0] < loudest[1]
    assert np.isfinite(compute_spectrogram(np.zeros((1, RATE * 4), np.float32), params)).all()


def test_a_click_is_found_at_its_time() -> None:
    wave = np.zeros((1, RATE * 4), np.float32)
    wave[0, RATE] = 1.0
    energy = compute_spectrogram(wave, SpectrogramParams())[0].mean(axis=0)
    assert energy.argmax().item() == pytest.approx(100, abs=1)


def test_pcm_rounds_half_to_even_and_clips() -> None:
    step = 2.0**-15
    samples = np.array([0, 0.4, 0.5, 0.6, 1.5, -0.5, -1.5, 32766.6, 32768, 70000, -32768, -32769, -70000]) * step
    pcm = to_pcm(samples.astype(np.float32))
    assert pcm.tolist() == [0, 0, 0, 1, 2, 0, -2, 32767, 32767, 32767, -32768, -32768, -32768]
    assert pcm.dtype == np.int16


def test_pcm_comes_back_within_half_a_step() -> None:
    samples = np.random.default_rng(0).uniform(-0.999, 0.999, 10000).astype(np.float32)
    back = from_pcm(to_pcm(samples))
    assert back.dtype == np.float32
    assert np.abs(back - samples).max() <= 0.5 * 2.0**-15
    every = np.arange(-(2**15), 2**15).astype(np.int16)
    assert np.array_equal(to_pcm(from_pcm(every)), every)


def test_the_key_holds_what_changes_values_and_stays_as_it_was() -> None:
    def key(**changes: object) -> str:
        return spectrogram_key(Params.model_validate(changes))

    assert key() == "5619382b9499bf57"  # of shards that lie on disks
    assert key(windows={"missing_modality": "visual_only"}) == key()
    assert len({key(), key(windows={"window_s": 2.0}), key(spectrograms={"n_mels": 64})}) == 3


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of clips with a good picture and sound that cannot be used."""
    root = tmp_path_factory.mktemp("broken")
    (root / "clips").mkdir()
    for name, (make, _) in UNHEARD.items():
        make(root / "clips" / name)
    return root


@pytest.mark.parametrize("answer", ["quarantine", "visual_only"])
def test_sound_that_cannot_be_used_is_none_whatever_is_wrong_with_it(broken: Path, answer: str) -> None:
    names = sorted(UNHEARD)
    clips = [clip_of(broken, broken / "clips" / name, i) for i, name in enumerate(names)]
    workspace = Workspace(broken / "work")
    write_manifest(workspace.manifest, clips)
    params = small_params(broken, max_failed_fraction=1.0, windows={"missing_modality": answer})
    entries = build_spectrograms(workspace, params)
    reasons = {row.clip_id: row.reason for row in read_quarantine(workspace.quarantine("spectrograms"))}
    for name, clip in zip(names, clips, strict=True):
        expected = UNHEARD[name][1]
        if answer == "quarantine":
            assert re.search(expected, reasons[clip.clip_id]), (name, reasons[clip.clip_id])
            assert reasons[clip.clip_id].endswith("(missing_modality: quarantine)")
            continue
        info = entries[clip.clip_id].info
        assert info["has_audio"] is False, name
        assert re.search(expected, str(info["no_audio"])), name
        assert info["available_s"] == info["duration_s"] == pytest.approx(1, abs=0.1)
        found = clip_facts(broken, clip, params)
        assert (found.reason, found.audio_codec, found.loudness_db) == ("", None, None)
        assert found.width_px == 64
        assert re.search(expected, found.no_audio)
