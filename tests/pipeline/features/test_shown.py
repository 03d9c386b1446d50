"""How much face and speech the shards say there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cache_schemas.manifest import write_manifest
from cache_schemas.media import FACES, SPECTROGRAMS, write_windows
from cache_schemas.shards import ClipResult, write_shard
from cache_schemas.windows import ClipWindows
from pipeline.faces.stage import face_key, windows_digest
from pipeline.features.amounts import seconds_heard
from pipeline.features.shown import shown_and_heard
from pipeline.params import Params
from pipeline.sound.stage import spectrogram_key
from pipeline.workspace import Workspace
from tests.pipeline.made_up_media import made_up_params
from tests.pipeline.run_fixture import clip_of, make_index

RATE = 8000


def tone(*spans_s: tuple[float, float], seconds: float = 4.0, level: float = 8000) -> np.ndarray:
    """(samples,) int16: loud in the spans, silent elsewhere."""
    t = np.arange(round(seconds * RATE)) / RATE
    loud = np.any([(t >= start) & (t < end) for start, end in spans_s], axis=0) if spans_s else np.zeros(len(t), bool)
    return np.where(loud, level * np.sign(np.sin(2 * np.pi * 400 * t + 0.1)), 0).astype(np.int16)


def heard(waves: list[np.ndarray], starts_s: list[float], *, available_s: float = 4.0, db: float = 30.0) -> float:
    return seconds_heard(
        np.stack(waves), starts_s, available_s=available_s, sample_rate_hz=RATE, silence_db=db
    )  # fmt: skip


def test_seconds_above_silence_by_hand() -> None:
    assert heard([tone((1, 2.5))], [0]) == pytest.approx(1.5)
    assert heard([tone()], [0]) == 0
    assert heard([tone((0, 4))], [0]) == pytest.approx(4)
    quiet = tone((0, 1)) + tone((2, 4), level=80)  # 40 dB below the loudest
    assert heard([quiet], [0]) == pytest.approx(1)
    assert heard([quiet], [0], db=50) == pytest.approx(3)


def test_what_two_windows_share_counts_once_and_a_repeat_not_at_all() -> None:
    """A clip of 6 s, loud from 3 to 5: windows from 0 and from 2."""
    assert heard([tone((3, 4)), tone((1, 3))], [0, 2]) == pytest.approx(2)
    assert heard([tone((3, 4)), tone((1, 3))], [0, 4]) == pytest.approx(3)
    assert heard([tone((0, 4))], [0.35], available_s=0.3) == pytest.approx(0.3)  # wrapped round


def test_the_loudest_window_says_what_silence_is() -> None:
    assert heard([tone((0, 4), level=80), tone((0, 1))], [0, 4]) == pytest.approx(1)


def workspace_of(root: Path, *, seen: list[list[float]], waves: list[np.ndarray]) -> tuple[Workspace, Params]:
    """One clip with a window for each of `waves`, and a face in the first of them; seen: probabilities by window."""
    workspace, params = Workspace(root), made_up_params(root, windows={"window_s": 4.0})
    starts = tuple(4.0 * window for window in range(len(waves)))
    windows = ClipWindows("0" * 16, starts, 4.0)
    row = make_index(subjects=1, categories=("RVRA",)).to_dict("records")[0] | {"clip_id": "0" * 16}
    write_manifest(workspace.manifest, [clip_of(row)])
    write_windows(workspace.windows, [windows])
    sound = {"spectrogram": np.zeros((len(waves), 2, 2), np.float32), "waveform": np.stack(waves)}
    info = {"has_audio": True, "available_s": 4.0}
    heard = ClipResult("0" * 16, "", starts, sound, info)
    n, frames = len(seen), len(seen[0])
    picture = {
        "crops": np.zeros((n, frames, 8, 8, 3), np.uint8),
        "boxes": np.zeros((n, frames, 4), np.float32),
        "probabilities": np.array(seen, np.float32),
        "landmarks": np.zeros((n, frames, 5, 2), np.float32),
    }
    faces = ClipResult("0" * 16, windows_digest(windows), starts[:n], picture)
    write_shard(workspace.spectrograms, SPECTROGRAMS, spectrogram_key(params), [heard])
    write_shard(workspace.faces, FACES, face_key(params), [faces])
    return workspace, params


def test_windows_without_a_face_count_as_none(tmp_path: Path) -> None:
    """The faces stage drops them: of four windows two are left, with a face in 3 and in 1 of four pictures."""
    waves = [tone((0, 1)), tone((0, 2)), tone((0, 4)), tone((0, 4))]
    workspace, params = workspace_of(tmp_path, seen=[[0.9, 0.9, 0, 0.5], [0, 0, 0, 0.9]], waves=waves)
    table = shown_and_heard(workspace, params)
    assert table.loc["0" * 16, "face_share"] == pytest.approx((0.75 + 0.25) / 4)
    assert table.loc["0" * 16, "speech_s"] == pytest.approx(3)  # of the windows that are used


def test_a_cache_without_shards_says_nothing(tmp_path: Path) -> None:
    table = shown_and_heard(Workspace(tmp_path), Params())
    assert list(table.columns) == ["face_share", "speech_s"]
    assert table.empty
