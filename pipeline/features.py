"""Stage `features`: frozen backbones, once per window and view, into the feature cache."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cache_schemas.features import (
    FeatureCache,
    FeatureCacheWriter,
    IndexAttributes,
    VariantAttributes,
    stage_piece,
    staged_piece,
)
from cache_schemas.files import digest
from cache_schemas.manifest import Clip, category_of, read_manifest
from cache_schemas.media import FACES, SPECTROGRAMS, read_windows
from cache_schemas.shards import ClipEntry, read_rows, scan_shards
from pipeline.backbones import Backbone, Modality, load_backbone
from pipeline.faces import face_key, windows_digest
from pipeline.params import BackboneParams, Params, SpectrogramParams
from pipeline.shard_stage import StageError
from pipeline.spectrograms import spectrogram_key
from pipeline.views import sound_view, visual_view
from pipeline.workers import console, device_of, progress_bar, run_tasks
from pipeline.workspace import Workspace

MODALITIES: tuple[Modality, ...] = ("visual", "audio")
PIECE_ROWS = 8
"""One task, and what a killed worker loses at most."""


_VIEWS_VERSION = 1
"""Raise it when pipeline.views gives other values."""


@dataclass(frozen=True)
class WindowSource:
    """One window that has both crops and a spectrogram, and where they lie."""

    clip: Clip
    window: int
    start_s: float
    faces: tuple[Path, int]
    spectrogram: tuple[Path, int]
    plan: str
    """Names the clip's windows: its face track, and with it this window's crops, depend on all of them."""
    info: dict[str, Any]

    @property
    def labels(self) -> tuple[int, int | None]:
        """(video label, audio label) of this window, which may be a real piece of a fake clip."""
        return self.clip.labels_between(self.start_s, self.start_s + self.info["available_s"])


@dataclass(frozen=True)
class Column:
    """One backbone, and the row that each view of each window has in its variant."""

    params: BackboneParams
    variant: VariantAttributes
    keys: tuple[str, ...]
    """(N * V,) view by view of one window after the other"""


@dataclass(frozen=True)
class _Piece:
    cache: Path
    params: BackboneParams
    variant: VariantAttributes
    keys: tuple[str, ...]
    rows: tuple[tuple[WindowSource, int], ...]
    """The window and the view of every key."""
    spectrograms: SpectrogramParams
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
    columns = describe(params, sources, device)
    writer = FeatureCacheWriter(workspace.features)
    pieces, fresh = [], set()
    order = {(source.clip.clip_id, source.window): i for i, source in enumerate(sources)}
    for column in columns:
        writer.add_variant(column.variant)
        of_key = dict(zip(column.keys, _views(sources, params), strict=True))
        missing = writer.missing(column.variant, column.keys)
        fresh |= {(of_key[key][0].clip.clip_id, of_key[key][0].window) for key in missing}
        for i in range(0, len(missing), PIECE_ROWS):
            keys = tuple(missing[i : i + PIECE_ROWS])
            rows = tuple(of_key[key] for key in keys)
            pieces.append(
                _Piece(
                    workspace.features.resolve(), column.params, column.variant, keys, rows, params.spectrograms, device
                )
            )
    pieces.sort(key=lambda piece: order[piece.rows[0][0].clip.clip_id, piece.rows[0][0].window])  # window by window
    _compute(writer, columns, pieces, params)
    writer.finish(_index(sources), {c.variant: c.keys for c in columns}, _index_attributes(columns, params))
    console.print(
        f"features: {len({s.clip.clip_id for s in sources})} clips, {len(sources)} windows: "
        f"{len(sources) - len(fresh)} already done, {len(fresh)} computed (of {len({clip for clip, _ in fresh})} clips)"
    )
    return FeatureCache.open(workspace.features)


def _compute(writer: FeatureCacheWriter, columns: list[Column], pieces: list[_Piece], params: Params) -> None:
    """Fills in what is missing; shards are packed as soon as they are full."""
    total, waiting = sum(len(column.keys) for column in columns), 0
    with progress_bar("features", total=total, unit="rows") as advance:
        advance(total - sum(len(piece.keys) for piece in pieces))
        for piece, _ in run_tasks(_compute_piece, pieces, params.compute):
            advance(len(piece.keys))
            waiting += len(piece.keys)
            if waiting >= piece.variant.shard_rows:
                waiting = 0
                for column in columns:
                    writer.pack(column.variant, column.keys, final=False)
        for column in columns:
            writer.pack(column.variant, column.keys, final=True)


def describe(params: Params, sources: Sequence[WindowSource], device: str) -> list[Column]:
    """The columns of the cache that `params` ask for."""
    columns = []
    for modality in MODALITIES:
        for backbone_params in getattr(params.features, modality):
            backbone = load_backbone(modality, backbone_params, device)
            variant = VariantAttributes(
                modality=modality,
                name=backbone.name.replace("/", "_").replace(":", "_"),
                backbone=backbone.identity(),
                layers=backbone.layers,
                length=params.features.length,
                dtype=params.features.dtype,
            )
            keys = [_row_key(variant, source, view, params) for source, view in _views(sources, params)]
            columns.append(Column(backbone_params, variant, tuple(keys)))
    return columns


def _views(sources: Sequence[WindowSource], params: Params) -> Iterator[tuple[WindowSource, int]]:
    return ((source, view) for source in sources for view in range(params.features.views))


def _row_key(variant: VariantAttributes, source: WindowSource, view: int, params: Params) -> str:
    """Names a row by all that its values depend on: the file's content, the stages' parameters, the backbone."""
    pixels = [face_key(params), source.plan] if variant.modality == "visual" else [spectrogram_key(params)]
    of_view = [view, _VIEWS_VERSION] if view else [0]
    return digest(variant.path, source.clip.clip_id, source.start_s, pixels, of_view, digits=32)


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
            picture.plan,
            dict(sound.info),
        )
        for i, start in enumerate(picture.starts_s)
    ]


def window_input(source: WindowSource, backbone: Backbone, view: int, params: SpectrogramParams) -> torch.Tensor:
    """What the backbone takes of a window's view: crops, a spectrogram or a waveform, as `backbone.input` says."""
    key = digest(source.clip.clip_id, source.start_s)
    if backbone.input == "crops":
        path, row = source.faces
        crops = read_rows(path, FACES, [row], only=("crops",))["crops"][0]
        return torch.from_numpy(visual_view(crops, key=key, view=view))
    path, row = source.spectrogram
    stored = read_rows(path, SPECTROGRAMS, [row])
    waveform, spectrogram = sound_view(
        stored["waveform"][0], stored["spectrogram"][0], key=key, view=view, params=params
    )
    return torch.from_numpy(waveform if backbone.input == "waveform" else spectrogram)


def window_features(source: WindowSource, params: Params, device: str) -> dict[str, torch.Tensor]:
    """{layer: (C_in, L) float32} of one window itself, by every backbone, without the cache."""
    found: dict[str, torch.Tensor] = {}
    for modality in MODALITIES:
        for chosen in getattr(params.features, modality):
            backbone = load_backbone(modality, chosen, device)
            window = window_input(source, backbone, 0, params.spectrograms).to(device)
            rows = backbone(window[None], length=params.features.length)
            found |= {layer: values[0] for layer, values in rows.items()}
    return found


def _compute_piece(piece: _Piece) -> None:
    if staged_piece(piece.cache, piece.variant, piece.keys).exists():  # another run on the same cache was faster
        return
    backbone = load_backbone(piece.variant.modality, piece.params, piece.device)
    rows = []
    for source, view in piece.rows:  # one window at a time: its features depend on no other's, to the bit
        window = window_input(source, backbone, view, piece.spectrograms).to(piece.device)
        rows.append(backbone(window[None], length=piece.variant.length))
    features = {layer: torch.cat([row[layer] for row in rows]).cpu().numpy() for layer in piece.variant.layers}
    stage_piece(piece.cache, piece.variant, piece.keys, features)


def feature_params(params: Params) -> dict[str, Any]:
    """The sections of params.yaml that decide what a window's features are."""
    return params.model_dump(mode="json", include={"windows", "spectrograms", "faces", "features"})


def open_cache(workspace: Workspace, params: Params) -> FeatureCache:
    """The workspace's cache; raises StageError when it was made with other parameters than `params`."""
    cache = FeatureCache.open(workspace.features)
    made, wanted = cache.attributes["params"], feature_params(params)
    for section, values in wanted.items():
        for key, value in values.items():
            if made.get(section, {}).get(key) != value:
                raise StageError(
                    f"{workspace.features} was made with {section}.{key} = {made.get(section, {}).get(key)!r}, the "
                    f"parameters say {value!r}: run `bmnas features` (what is there already is not computed again)"
                )
    return cache


def _index_attributes(columns: list[Column], params: Params) -> IndexAttributes:
    libraries = ("bmnas", "torch", "torchaudio", "timm", "facenet-pytorch", "zarr")
    return IndexAttributes(
        views=params.features.views,
        variants=[column.variant for column in columns],
        params=feature_params(params),
        versions={name: importlib.metadata.version(name) for name in libraries},
    )


def _index(sources: list[WindowSource]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                **{name: getattr(s.clip, name) for name in ("clip_id", "path", "method", "subject_id", "dataset")},
                **{name: getattr(s.clip, name) for name in ("split", "file_bytes")},
                **_label_columns(*s.labels),
                "window": s.window,
                "start_s": s.start_s,
                **{name: value for name, value in s.info.items() if name != "available_s"},
            }
            for s in sources
        ]
    )


def _label_columns(video: int, audio: int | None) -> dict[str, Any]:
    return {
        "label": int(bool(video or audio)),
        "video_label": video,
        "audio_label": -1 if audio is None else audio,
        "category": category_of(video, audio),
    }
