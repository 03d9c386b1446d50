"""Sound that lies in a file of its own, from the table to the spectrogram and the check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cache_schemas.manifest import Clip, read_manifest, read_quarantine
from cache_schemas.media import SPECTROGRAMS
from cache_schemas.shards import ClipEntry, read_rows
from pipeline.manifest.build import build_manifest
from pipeline.manifest.check import check_manifest
from pipeline.params import Params
from pipeline.sound.stage import build_spectrograms
from pipeline.workspace import Workspace
from tests.pipeline.clips import make_clip
from tests.pipeline.conftest import small_params
from tests.pipeline.tiny import TinyClips, write_wav

RATE = 16000
Run = tuple[Workspace, Params, dict[str, Clip]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: TinyClips) -> Run:
    """One picture with a tone of 440 Hz, itself and dubbed three times; two others to fill the splits."""
    root, workspace = tmp_path_factory.mktemp("data"), Workspace(tmp_path_factory.mktemp("work"))
    make_clip(root / "talk.mp4", seconds=2)
    make_clip(root / "mute.mp4", sound=None, seconds=2)
    for name in ("a", "b"):
        tiny.put(root / f"{name}.mp4")
    write_wav(root / "voices" / "1000.wav", hz=1000, seconds=2)
    write_wav(root / "voices" / "2000 100%.wav", hz=2000, seconds=2)
    (root / "voices" / "none.wav").write_text("no sound at all")
    (root / "voices" / "out.wav").symlink_to("/etc/hostname")
    rows = [
        "a.mp4,a,real,real,",
        "b.mp4,b,real,real,",
        "talk.mp4,t,real,real,",
        "talk.mp4,t,real,fake,voices/1000.wav",
        "talk.mp4,t,real,fake,voices/2000 100%.wav",
        "mute.mp4,t,real,fake,voices/1000.wav",
        "talk.mp4,t,real,fake,voices/none.wav",
        "talk.mp4,t,real,fake,voices/out.wav",
        "talk.mp4,t,real,fake,voices/missing.wav",
        "talk.mp4,t,real,fake,../x.wav",
    ]
    (root / "manifest.csv").write_text("\n".join(["path,subject_id,video_label,audio_label,audio_path", *rows]))
    params = small_params(root, windows={"window_s": 1.0, "trim_silence": False})
    clips = build_manifest(workspace, params)
    assert read_manifest(workspace.manifest) == clips
    return workspace, params, {f"{clip.path} {clip.audio_path}".strip(): clip for clip in clips}


def test_a_picture_with_another_sound_is_another_clip(run: Run) -> None:
    _, params, clips = run
    assert set(clips) == {
        "a.mp4", "b.mp4", "talk.mp4", "talk.mp4 voices/1000.wav", "talk.mp4 voices/2000 100%25.wav",
        "mute.mp4 voices/1000.wav", "talk.mp4 voices/none.wav",
    }  # fmt: skip
    assert len({clip.clip_id for clip in clips.values()}) == len(clips)
    root = Path(params.data.root)
    both = (root / "talk.mp4").stat().st_size + (root / "voices/1000.wav").stat().st_size
    assert clips["talk.mp4 voices/1000.wav"].file_bytes == both


def test_sound_files_that_cannot_be_opened_are_named(run: Run) -> None:
    reasons = sorted(row.reason for row in read_quarantine(run[0].quarantine("manifest")))
    assert reasons == [
        "its sound ../x.wav: the path leads outside the data root",
        "its sound voices/missing.wav: the file does not exist",
        "its sound voices/out.wav: the path leads outside the data root",
    ]


def loudest_hz(entry: ClipEntry) -> float:
    """The frequency with the most power in the first window."""
    wave = read_rows(entry.path, SPECTROGRAMS, [entry.first_row])["waveform"][0]
    return float(np.argmax(np.abs(np.fft.rfft(wave)))) * RATE / len(wave)


def test_the_spectrogram_is_of_the_other_file(run: Run) -> None:
    workspace, params, clips = run
    entries = build_spectrograms(workspace, params)
    heard = {name: loudest_hz(entries[clip.clip_id]) for name, clip in clips.items() if clip.clip_id in entries}
    assert heard["talk.mp4"] == pytest.approx(440, abs=2)
    assert heard["talk.mp4 voices/1000.wav"] == pytest.approx(1000, abs=2)
    assert heard["talk.mp4 voices/2000 100%25.wav"] == pytest.approx(2000, abs=2)
    assert heard["mute.mp4 voices/1000.wav"] == pytest.approx(1000, abs=2)
    [row] = read_quarantine(workspace.quarantine("spectrograms"))
    assert row.clip_id == clips["talk.mp4 voices/none.wav"].clip_id
    assert "its sound's file" in row.reason


def test_the_check_measures_the_other_file(run: Run) -> None:
    workspace, params, _ = run
    found = check_manifest(workspace, params)["properties"]
    assert found["audio_codec"]["fake"]["values"] == {"pcm_s16le": 3}
    assert found["audio_codec"]["real"]["values"] == {"aac": 3}
    assert found["loudness_db"]["fake"]["known"] == 3
    assert found["has_audio"]["fake"]["min"] == 0.0  # the one whose sound cannot be read, though the clip has a track
