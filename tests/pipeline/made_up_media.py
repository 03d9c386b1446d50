"""What the stages before `features` leave, without media: real files with a real manifest, made-up sound and crops.

Everything is drawn from the clip's content, so it is the same wherever and whenever it is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache_schemas.files import write_text
from cache_schemas.manifest import Clip
from cache_schemas.media import FACES, SPECTROGRAMS, write_windows
from cache_schemas.shards import ClipResult, scan_shards, write_shard
from cache_schemas.windows import ClipWindows
from pipeline.faces.stage import face_key, windows_digest
from pipeline.manifest.build import build_manifest
from pipeline.params import Params, parse_params
from pipeline.shards.windows import plan_windows
from pipeline.sound.stage import spectrogram_key
from pipeline.workspace import Workspace

CLIPS_PER_SHARD = 8


def made_up_params(root: Path, **changes: object) -> Params:
    """Small crops and spectrograms, counting backbones, all in this process; no pseudo-fakes unless asked for."""
    backbone = {"name": "tests.pipeline.counting:small", "weights": "seed:0"}
    content: dict[str, Any] = {
        "data": {"root": str(root), "layout": "csv"},
        "windows": {"window_s": 0.5, "max_per_clip": 1},
        "spectrograms": {"sample_rate_hz": 8000, "n_fft": 256, "n_mels": 64},
        "faces": {"frames": 2, "size_px": 32},
        "features": {"visual": [backbone], "audio": [backbone], "length": 4},
        "compute": {"workers": 1, "device": "cpu"},
        **changes,
    }
    content["features"] = {"pseudo": 0, **content["features"]}
    return parse_params(content, source="test")


def write_clips(root: Path, contents: Mapping[str, str]) -> None:
    """Files of the given contents by name, of one person each, and the manifest.csv that lists them."""
    for name, content in contents.items():
        write_text(root / "clips" / name, content)
    rows = [f"clips/{name},person of {content},real,real" for name, content in contents.items()]
    (root / "manifest.csv").write_text("\n".join(["path,subject_id,video_label,audio_label", *rows]) + "\n")


def run_before_features(workspace: Workspace, params: Params) -> None:
    """The real manifest; windows, spectrograms and crops of the clips that have none yet."""
    clips = build_manifest(workspace, params)
    windows = {clip.clip_id: _windows(clip, params) for clip in clips}
    write_windows(workspace.windows, list(windows.values()))
    heard = scan_shards(workspace.spectrograms, SPECTROGRAMS, spectrogram_key(params))
    seen = scan_shards(workspace.faces, FACES, face_key(params))
    sounds = [_sound(windows[c.clip_id], params) for c in clips if (c.clip_id, "") not in heard]
    faces = [_faces(w, params) for i, w in windows.items() if (i, windows_digest(w)) not in seen]
    for i in range(0, len(sounds), CLIPS_PER_SHARD):
        write_shard(workspace.spectrograms, SPECTROGRAMS, spectrogram_key(params), sounds[i : i + CLIPS_PER_SHARD])
    for i in range(0, len(faces), CLIPS_PER_SHARD):
        write_shard(workspace.faces, FACES, face_key(params), faces[i : i + CLIPS_PER_SHARD])


def clip_contents(names: Sequence[str]) -> dict[str, str]:
    """{file name: content}."""
    return {f"{name}.mp4": name for name in names}


def _windows(clip: Clip, params: Params) -> ClipWindows:
    seconds = np.random.default_rng(int(clip.clip_id, 16)).uniform(2, 4)
    return plan_windows(clip.clip_id, duration_s=seconds, leading_silence_s=0.1, params=params.windows)


def _sound(windows: ClipWindows, params: Params) -> ClipResult:
    settings, n = params.spectrograms, len(windows.starts_s)
    random = np.random.default_rng([int(windows.clip_id, 16), 0])
    samples = round(params.windows.window_s * settings.sample_rate_hz)
    hops = samples // round(settings.hop_s * settings.sample_rate_hz)
    arrays = {
        "spectrogram": random.standard_normal((n, settings.n_mels, hops), dtype=np.float32),
        "waveform": random.integers(-3000, 3000, (n, samples), dtype=np.int16),
    }
    info = {
        "available_s": windows.available_s,
        "duration_s": 3.0,
        "leading_silence_s": 0.1,
        "loudness_db": -20.0,
        "width_px": 128,
        "height_px": 128,
        "fps": 25.0,
        "has_audio": True,
    }
    return ClipResult(windows.clip_id, "", windows.starts_s, arrays, info)


def _faces(windows: ClipWindows, params: Params) -> ClipResult:
    n, frames, size = len(windows.starts_s), params.faces.frames, params.faces.size_px
    random = np.random.default_rng([int(windows.clip_id, 16), 1])
    arrays = {
        "crops": random.integers(0, 256, (n, frames, size, size, 3), dtype=np.uint8),
        "boxes": np.zeros((n, frames, 4), np.float32),
        "probabilities": np.ones((n, frames), np.float32),
        "landmarks": np.zeros((n, frames, 5, 2), np.float32),
    }
    return ClipResult(windows.clip_id, windows_digest(windows), windows.starts_s, arrays)
