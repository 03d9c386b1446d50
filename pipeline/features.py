"""Stage `features`: frozen backbones, once per window, into the feature cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cache_schemas.features import Block, FeatureCache, FeatureCacheWriter, write_block
from cache_schemas.files import digest
from cache_schemas.manifest import Clip, read_manifest
from cache_schemas.media import FACES, SPECTROGRAMS, read_windows
from cache_schemas.shards import ClipEntry, read_rows, scan_shards
from pipeline.backbones import Backbone, Modality, load_backbone
from pipeline.faces import face_key, windows_digest
from pipeline.params import FeatureParams, Params
from pipeline.shard_stage import StageError
from pipeline.spectrograms import spectrogram_key
from pipeline.workers import console, device_of, progress_bar, run_tasks
from pipeline.workspace import Workspace

MODALITIES: tuple[Modality, ...] = ("visual", "audio")


@dataclass(frozen=True)
class WindowSource:
    """One window that has both crops and a spectrogram, and where they lie."""

    clip: Clip
    window: int
    start_s: float
    faces: tuple[Path, int]
    spectrogram: tuple[Path, int]
    info: dict[str, Any]


@dataclass(frozen=True)
class _BlockTask:
    cache: Path
    block: Block
    sources: tuple[WindowSource, ...]
    """One for each of the block's new rows."""
    params: FeatureParams
    device: str


def build_features(workspace: Workspace, params: Params) -> FeatureCache:
    """The finished cache of every window that has crops and a spectrogram."""
    sources = window_sources(workspace, params)
    if not sources:
        raise StageError(
            "features: no clip has both crops and a spectrogram; see the quarantine lists in "
            f"{workspace.quarantine('faces').parent}"
        )
    device = device_of(params.compute)
    attributes, layers = describe(params, device)
    keys = [digest(s.clip.clip_id, s.start_s, attributes) for s in sources]
    by_key = dict(zip(keys, sources, strict=True))
    writer = FeatureCacheWriter(workspace.features, layers, attributes)
    blocks = writer.plan(keys)
    tasks = [
        _BlockTask(workspace.features.resolve(), b, tuple(by_key[b.keys[i]] for i in b.new), params.features, device)
        for b in blocks
    ]
    missing = sum(len(block.new) for block in blocks)
    with progress_bar("features", total=len(sources), unit="windows") as advance:
        advance(len(sources) - missing)
        for task, _ in run_tasks(_compute_block, tasks, params.compute):
            writer.commit(task.block)
            advance(len(task.sources))
    writer.finish(_index(sources), keys)
    clips = len({s.clip.clip_id for s in sources})
    computed = len({s.clip.clip_id for task in tasks for s in task.sources})
    console.print(
        f"features: {clips} clips, {len(sources)} windows: {len(sources) - missing} already done, "
        f"{missing} computed (of {computed} clips)"
    )
    return FeatureCache.open(workspace.features)


def describe(params: Params, device: str) -> tuple[dict[str, Any], dict[str, int]]:
    """(attributes, {layer: C_in}) of the cache that `params` ask for. The attributes are its identity."""
    backbones = {m: [load_backbone(m, p, device) for p in getattr(params.features, m)] for m in MODALITIES}
    layers = {
        name: channels
        for found in backbones.values()
        for backbone in found
        for name, channels in backbone.layers.items()
    }
    attributes = {
        "layers": list(layers),
        "backbones": {modality: [backbone.identity() for backbone in found] for modality, found in backbones.items()},
        "length": params.features.length,
        "dtype": params.features.dtype,
        "shard_windows": params.features.shard_windows,
        "windows": params.windows.model_dump(),
        "faces": params.faces.model_dump(),
        "spectrograms": params.spectrograms.model_dump(),
        "versions": {"faces": face_key(params), "spectrograms": spectrogram_key(params)},
    }
    return attributes, layers


def window_sources(workspace: Workspace, params: Params) -> list[WindowSource]:
    """Every window that has both crops and a spectrogram, in manifest order."""
    clips = read_manifest(workspace.manifest)
    windows = read_windows(workspace.windows)
    heard = scan_shards(workspace.spectrograms, SPECTROGRAMS, spectrogram_key(params))
    seen = scan_shards(workspace.faces, FACES, face_key(params))
    sources = []
    for clip in clips:
        sound = heard.get((clip.clip_id, ""))
        picture = seen.get((clip.clip_id, windows_digest(windows[clip.clip_id]))) if clip.clip_id in windows else None
        if sound and picture and not sound.reason and not picture.reason:
            sources += _pair(clip, sound, picture)
    return sources


def _pair(clip: Clip, sound: ClipEntry, picture: ClipEntry) -> list[WindowSource]:
    """The windows that the faces stage kept, each with its spectrogram: paired by start, never by order."""
    return [
        WindowSource(
            clip,
            sound.starts_s.index(start),
            start,
            (picture.path, picture.first_row + i),
            (sound.path, sound.first_row + sound.starts_s.index(start)),
            dict(sound.info),
        )
        for i, start in enumerate(picture.starts_s)
    ]


def window_features(
    crops: NDArray[np.uint8], spectrogram: NDArray[np.float32], params: FeatureParams, device: str
) -> dict[str, torch.Tensor]:
    """{layer: (C_in, L) float32} of one window. One window at a time: its features depend on no other's."""
    features: dict[str, torch.Tensor] = {}
    for modality, pixels in zip(MODALITIES, (crops, spectrogram), strict=True):
        for chosen in getattr(params, modality):
            backbone: Backbone = load_backbone(modality, chosen, device)
            found = backbone(torch.from_numpy(pixels)[None], length=params.length)
            features |= {name: values[0] for name, values in found.items()}
    return features


def _compute_block(task: _BlockTask) -> None:
    rows = []
    for source in task.sources:
        crops = read_rows(source.faces[0], FACES, [source.faces[1]])["crops"][0]
        spectrogram = read_rows(source.spectrogram[0], SPECTROGRAMS, [source.spectrogram[1]])["spectrogram"][0]
        features = window_features(crops, spectrogram, task.params, task.device)
        rows.append({name: values.cpu().numpy() for name, values in features.items()})
    write_block(task.cache, task.block, {name: np.stack([row[name] for row in rows]) for name in rows[0]})


def _index(sources: list[WindowSource]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                **{name: getattr(s.clip, name) for name in ("clip_id", "path", "label", "video_label", "category")},
                **{name: getattr(s.clip, name) for name in ("method", "subject_id", "dataset", "split", "file_bytes")},
                "audio_label": -1 if s.clip.audio_label is None else s.clip.audio_label,
                "window": s.window,
                "start_s": s.start_s,
                **{name: value for name, value in s.info.items() if name != "available_s"},
            }
            for s in sources
        ]
    )
