"""Files of any length, stretch by stretch: the same windows, in the same memory."""

from __future__ import annotations

import subprocess
import tracemalloc
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache_schemas.features import FeatureCache
from pipeline import media
from pipeline.detector import road as road_module
from pipeline.detector.by_torch import frozen
from pipeline.detector.parts import Parts
from pipeline.detector.road import Road, Walked
from pipeline.faces.clip import Shown
from pipeline.faces.networks import torch_networks
from pipeline.params import Params
from pipeline.sound.clip import compute_spectrogram
from pipeline.workspace import Workspace
from tests.pipeline.clips import copy_clip


def parts_of(workspace: Workspace, params: Params) -> Parts:
    backbones = frozen(params, FeatureCache.open(workspace.features).attributes["backbones"])
    return Parts(backbones, torch_networks("cpu"), compute_spectrogram, [])


@pytest.fixture(scope="module")
def road(small_run: tuple[Workspace, Params]) -> Road:
    workspace, params = small_run
    return Road(params, parts_of(workspace, params))


@pytest.fixture(scope="module")
def clip(synth_root: Path) -> Path:
    return sorted((synth_root / "clips").glob("*.mp4"))[0]


def looped(clip: Path, target: Path, seconds: float) -> Path:
    """The clip over and over."""
    options = ["-stream_loop", "-1", "-i", f"file:{clip}", "-t", str(seconds), "-c", "copy"]
    subprocess.run([media.ffmpeg_exe(), "-v", "error", *options, f"file:{target}"], check=True)
    return target


def starts(stretches: list[Walked]) -> list[float]:
    return [start for each in stretches for start in each.starts_s]


def test_stretches_give_the_windows_of_the_whole(
    road: Road, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is heard to the bit, what is seen but for where a face is taken to be, by what its stretch shows of it."""
    path = looped(clip, tmp_path / "long.mkv", 10)
    monkeypatch.setattr(road_module, "STRETCH_WINDOWS", 100)
    (whole,) = road.walk(path, hop_s=1.5)
    monkeypatch.setattr(road_module, "STRETCH_WINDOWS", 2)
    parts = list(road.walk(path, hop_s=1.5))
    assert len(parts) == 3
    assert starts(parts) == list(whole.starts_s)
    assert {round(b - a, 6) for a, b in zip(whole.starts_s, whole.starts_s[1:-1], strict=False)} == {1.5}
    assert whole.starts_s[-1] == pytest.approx(media.probe(path).duration_s - 4, abs=0.3)
    assert sum(each.face_windows for each in parts) == pytest.approx(whole.face_windows)
    for name, x in whole.layers.items():
        again = np.concatenate([each.layers[name] for each in parts])
        if name.startswith("audio/"):
            assert np.array_equal(again, x)
        else:
            assert np.square(again - x, dtype=np.float32).mean() < 0.15**2 * np.square(x, dtype=np.float32).mean()


def test_a_stretch_without_a_face_is_passed_over(
    road: Road, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gone.mkv"
    graph = "[0:v]tpad=stop_duration=10:color=gray[v];[0:a]aloop=loop=9:size=48000[a]"
    options = ["-filter_complex", graph, "-map", "[v]", "-map", "[a]", "-c:v", "libx264", "-c:a", "flac", "-shortest"]
    subprocess.run([media.ffmpeg_exe(), "-v", "error", "-i", clip, *options, path], check=True)
    monkeypatch.setattr(road_module, "STRETCH_WINDOWS", 1)
    stretches = list(road.walk(path, hop_s=4))
    assert 1 <= len(stretches) < stretches[0].planned
    assert sum(each.face_windows for each in stretches) < 2
    assert max(starts(stretches)) < 4


def test_what_may_pass_stops_a_file(road: Road, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time limit in its second stretch: half of a file is no answer about it."""
    path = looped(clip, tmp_path / "long.mkv", 10)
    stretches = iter([road_module.every_face])

    def once(*arguments: Any, **options: Any) -> Generator[Shown, None, None]:
        for every_face in stretches:
            return every_face(*arguments, **options)
        raise media.PassingError("decoding took longer than 300 s")

    monkeypatch.setattr(road_module, "every_face", once)
    monkeypatch.setattr(road_module, "STRETCH_WINDOWS", 1)
    walked = road.walk(path, hop_s=6)
    next(walked)
    with pytest.raises(media.PassingError, match="longer than 300 s"):
        next(walked)


def test_a_file_without_sound(road: Road, small_run: tuple[Workspace, Params], clip: Path, tmp_path: Path) -> None:
    """Refused, or where a run was trained on such, seen alone: what silence sounds like is nothing."""
    mute = copy_clip(clip, tmp_path / "mute.mp4", "-an")
    with pytest.raises(media.MediaError, match="no sound track, and this detector needs picture and sound"):
        next(road.walk(mute))
    workspace, params = small_run
    windows = params.windows.model_copy(update={"missing_modality": "visual_only"})
    seeing = Road(params.model_copy(update={"windows": windows}), parts_of(workspace, params))
    (walked,) = seeing.walk(mute)
    assert not walked.has_audio
    for name, x in walked.layers.items():
        assert bool(x.any()) == name.startswith("visual/")


@pytest.mark.slow
def test_a_long_file_takes_no_more_memory_than_a_short_one(
    road: Road, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(road_module, "STRETCH_WINDOWS", 1)
    monkeypatch.setattr("pipeline.media.sound._LARGE_BYTES", 0)  # as of a file of hours
    peaks = []
    paths = {seconds: looped(clip, tmp_path / f"{seconds}.mkv", seconds) for seconds in (70, 280)}
    for seconds in (70, 70, 280):  # the first fills caches
        path = paths[seconds]
        tracemalloc.start()
        windows = sum(len(walked.starts_s) for walked in road.walk(path, hop_s=35))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert windows > seconds / 35
    assert peaks[2] < peaks[1] + 6e6, "280 s of sound alone are 18 MB"  # a decoder's buffers come and go
