"""Stage `features`: frozen backbones, once per window and view, into the feature cache."""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from numpy.typing import NDArray

from cache_schemas.content import CacheContent
from cache_schemas.features import (
    FeatureCache,
    FeatureCacheWriter,
    IndexAttributes,
    VariantAttributes,
    stage_piece,
    staged_piece,
)
from cache_schemas.features.stored import stored_variants
from cache_schemas.files import digest
from cache_schemas.manifest import Clip, Quarantined, category_of, read_manifest, write_quarantine
from cache_schemas.media import FACES, SPECTROGRAMS, read_windows
from cache_schemas.shards import ClipEntry, ShardSchema, read_rows, scan_shards
from pipeline.backbones import Backbone, Input, Modality, bare_identity, load_backbone
from pipeline.compute.machine import device_of
from pipeline.compute.progress import console, progress_bar
from pipeline.compute.workers import one_ahead, run_tasks
from pipeline.faces.stage import face_key, windows_digest
from pipeline.features.views import audio_view, sound_view, visual_view
from pipeline.params import BackboneParams, Params, SpectrogramParams
from pipeline.shards.stage import StageError
from pipeline.sound.stage import spectrogram_key
from pipeline.workspace import Workspace

MODALITIES: tuple[Modality, ...] = ("visual", "audio")
PIECE_ROWS = 8
"""One task, and what a killed worker loses at most."""
PASS_WINDOWS = {"cpu": 1, "cuda": PIECE_ROWS}
"""Windows of one forward pass. On the CPU more save nothing, and for some networks change the last bits."""
ROUNDS = 3
"""A staged piece that is damaged, or not seen on a network's file system, is computed again so often at most."""
_VIEWS_VERSION = 1
"""Raise it when pipeline.features.views gives other values."""


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
    layers: tuple[str, ...]
    """Those that were asked for; the variant may have more."""


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
    device, views = device_of(params.compute), params.features.views
    writer = FeatureCacheWriter(workspace.features)
    with writer.at_work():
        columns = [_as_stored(writer, column, sources, params, device) for column in describe(params, sources, device)]
        for column in columns:
            writer.add_variant(column.variant)
        fresh, refused = _fill(writer, columns, sources, params, device)
        failed = _failed_windows(columns, sources, refused)
        _quarantine(workspace, sources, failed, params)
        kept = [i for i in range(len(sources)) if i not in failed]
        rows = {c.variant: [c.keys[i * views + v] for i in kept for v in range(views)] for c in columns}
        writer.finish(_index([sources[i] for i in kept]), rows, _index_attributes(columns, params))
    console.print(
        f"features: {len({s.clip.clip_id for s in sources})} clips, {len(sources)} windows: "
        f"{len(sources) - len(fresh)} already done, {len(fresh)} computed (of {len({clip for clip, _ in fresh})} "
        f"clips)" + (f"; {len(failed)} in quarantine" if failed else "")
    )
    cache = FeatureCache.open(workspace.features)
    CacheContent.of(cache).write(workspace.content)
    return cache


def _fill(
    writer: FeatureCacheWriter, columns: list[Column], sources: list[WindowSource], params: Params, device: str
) -> tuple[set[tuple[str, int]], dict[str, str]]:
    """Computes what is missing: ({(clip, window) that were computed}, {key: why its row cannot be stored})."""
    fresh: set[tuple[str, int]] = set()
    refused: dict[str, str] = {}
    pieces = _missing_pieces(writer, columns, sources, params, device)
    for _ in range(ROUNDS):
        refused |= _compute(writer, columns, pieces, params)
        fresh |= {(source.clip.clip_id, source.window) for piece in pieces for source, _ in piece.rows}
        again = _missing_pieces(writer, columns, sources, params, device)
        pieces = [piece for piece in again if not refused.keys() >= set(piece.keys)]
        if not pieces:
            break
    return fresh, refused


def _failed_windows(columns: list[Column], sources: list[WindowSource], refused: Mapping[str, str]) -> dict[int, str]:
    """{place in `sources`: why} of windows that lack a row of some backbone or view."""
    found: dict[int, str] = {}
    for column in columns if refused else ():
        views = len(column.keys) // len(sources)
        for i, key in enumerate(column.keys):
            if key in refused:
                found.setdefault(i // views, refused[key])
    return found


def _quarantine(workspace: Workspace, sources: list[WindowSource], failed: Mapping[int, str], params: Params) -> None:
    """Writes the list, a line a clip; raises StageError when more windows fail than may, or all."""
    path = workspace.quarantine("features")
    of_clip: dict[Clip, list[str]] = {}
    for i, why in sorted(failed.items()):
        of_clip.setdefault(sources[i].clip, []).append(f"window from {sources[i].start_s:g} s: {why}")
    rows = [
        Quarantined(clip.clip_id, clip.path, "features", why[0] + (f"; {len(why)} windows in all" if why[1:] else ""))
        for clip, why in of_clip.items()
    ]
    write_quarantine(path, rows)
    if len(failed) == len(sources) or len(failed) > params.max_failed_fraction * len(sources):
        raise StageError(
            f"features: {len(failed)} of {len(sources)} windows failed, more than max_failed_fraction "
            f"{params.max_failed_fraction:g} allows ({rows[0].reason}); the reasons are in {path}"
        )


def _missing_pieces(
    writer: FeatureCacheWriter,
    columns: list[Column],
    sources: list[WindowSource],
    params: Params,
    device: str,
) -> list[_Piece]:
    """What is to be computed, window by window: all backbones of a window one after the other."""
    cache, views = writer.path.resolve(), list(_views(sources, params))
    pieces = []
    for column in columns:
        place = {key: i for i, key in enumerate(column.keys)}
        missing = writer.missing(column.variant, column.keys)
        for i in range(0, len(missing), PIECE_ROWS):
            keys = tuple(missing[i : i + PIECE_ROWS])
            rows = tuple(views[place[key]] for key in keys)
            piece = _Piece(cache, column.params, column.variant, keys, rows, params.spectrograms, device)
            pieces.append((place[keys[0]], piece))
    return [piece for _, piece in sorted(pieces, key=lambda item: item[0])]


def _compute(writer: FeatureCacheWriter, columns: list[Column], pieces: list[_Piece], params: Params) -> dict[str, str]:
    """Fills in what is missing; shards are packed as soon as they are full. {key: why its row cannot be stored}."""
    total, waiting = sum(len(column.keys) for column in columns), 0
    refused: dict[str, str] = {}
    with progress_bar("features", total=total, unit="rows") as advance:
        advance(total - sum(len(piece.keys) for piece in pieces))
        for piece, bad in run_tasks(_compute_piece, pieces, params.compute):
            writer.staged(piece.variant, piece.keys)
            refused |= bad
            advance(len(piece.keys))
            waiting += len(piece.keys)
            if waiting >= writer.geometry.shard_rows:
                waiting = 0
                for column in columns:
                    writer.pack(column.variant, column.keys, final=False)
        for column in columns:
            writer.pack(column.variant, column.keys, final=True)
    return refused


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
            keys = row_keys(variant, sources, params)
            columns.append(Column(backbone_params, variant, keys, tuple(variant.layers)))
    return columns


def _as_stored(
    writer: FeatureCacheWriter, column: Column, sources: Sequence[WindowSource], params: Params, device: str
) -> Column:
    """The column in that variant of the cache, of this backbone and with these layers or more, that lacks least."""
    found = [(len(column.keys), False, 0, "", column)]
    for variant in stored_variants(str(writer.path)):
        if _holds(variant, column.variant):
            keys = row_keys(variant, sources, params)
            lacking, making = len(writer.missing(variant, keys)), _making(variant, column, device)
            if making or not lacking:
                stored = replace(column, params=making or column.params, variant=variant, keys=keys)
                found.append((lacking, variant != column.variant, len(variant.layers), variant.path, stored))
    return min(found, key=lambda each: each[:-1])[-1]


def _holds(variant: VariantAttributes, wanted: VariantAttributes) -> bool:
    """Whether the rows of `variant` are what `wanted` asks for, in all its layers."""
    one, other = ((v.modality, v.name, bare_identity(v.backbone), v.length, v.dtype) for v in (variant, wanted))
    return one == other and variant.layers.items() >= wanted.layers.items()


def _making(variant: VariantAttributes, column: Column, device: str) -> BackboneParams | None:
    """What makes all layers of the variant, as the column's parameters make its own; None where that is not known."""
    if variant.layers == column.variant.layers:
        return column.params
    more = column.params.model_copy(update={"layers": len(variant.layers)})
    return more if load_backbone(variant.modality, more, device).layers == variant.layers else None


def _views(sources: Sequence[WindowSource], params: Params) -> Iterator[tuple[WindowSource, int]]:
    return ((source, view) for source in sources for view in range(params.features.views))


def row_keys(variant: VariantAttributes, sources: Sequence[WindowSource], params: Params) -> tuple[str, ...]:
    """Names every row by all that its values depend on: the file's content, the stages' parameters, the backbone.

    Which layers are kept is no part of it.
    """
    of_rows = {"modality", "name", "backbone", "length", "dtype"}
    # A variant from before format 4 says where its weights came from: its rows keep the names that they have.
    name = variant.path if "weights" in variant.backbone else digest(variant.model_dump(include=of_rows), digits=32)
    visual = variant.modality == "visual"
    stage = face_key(params) if visual else spectrogram_key(params)
    return tuple(
        digest(
            name,
            source.clip.clip_id,
            source.start_s,
            [stage, source.plan] if visual else [stage],
            [view, _VIEWS_VERSION] if view else [0],
            digits=32,
        )
        for source, view in _views(sources, params)
    )


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


STORED: Mapping[Input, tuple[ShardSchema, tuple[str, ...]]] = {
    "crops": (FACES, ("crops",)),
    "spectrogram": (SPECTROGRAMS, ("spectrogram", "waveform")),
    "waveform": (SPECTROGRAMS, ("waveform",)),
}
"""The arrays that the views of a backbone's input are made from."""


def window_inputs(
    source: WindowSource, takes: Input, views: Iterable[int], params: SpectrogramParams
) -> Iterator[torch.Tensor]:
    """Yields each view of a window as a backbone takes it; what is stored of it is read once."""
    schema, names = STORED[takes]
    path, row = source.faces if takes == "crops" else source.spectrogram
    stored = {name: rows[0] for name, rows in read_rows(path, schema, [row], only=names).items()}
    return input_views(stored, takes, clip_id=source.clip.clip_id, start_s=source.start_s, views=views, params=params)


def input_views(
    stored: Mapping[str, NDArray[Any]],
    takes: Input,
    *,
    clip_id: str,
    start_s: float,
    views: Iterable[int],
    params: SpectrogramParams,
) -> Iterator[torch.Tensor]:
    """Yields views of one window as a backbone takes it: crops, a spectrogram or a waveform.

    stored: the window's arrays that STORED names.
    """
    key = digest(clip_id, start_s)
    for view in views:
        if takes == "crops":
            yield torch.from_numpy(visual_view(stored["crops"], key=key, view=view))
        elif takes == "waveform":
            rate = params.sample_rate_hz
            yield torch.from_numpy(audio_view(stored["waveform"], rate_hz=rate, key=key, view=view))
        else:
            pair = sound_view(stored["waveform"], stored["spectrogram"], key=key, view=view, params=params)
            yield torch.from_numpy(pair[1])


def run_backbone(backbone: Backbone, windows: Iterable[torch.Tensor], *, length: int) -> dict[str, torch.Tensor]:
    """{layer: (n, L, C_in) float32, on the CPU} of n windows, each read while the one before is computed.

    All passes have the same size, the last one is filled up: a window's features depend on no other's, to the bit.
    """
    size = PASS_WINDOWS[backbone.device.type]
    passes = []
    for batch in one_ahead(_batches(windows, size)):
        filled = torch.stack([*batch, *batch[-1:] * (size - len(batch))])
        found = backbone(filled.to(backbone.device), length=length)
        passes.append({layer: rows[: len(batch)].cpu() for layer, rows in found.items()})
    return {layer: torch.cat([rows[layer] for rows in passes]) for layer in backbone.layers}


def _batches(windows: Iterable[torch.Tensor], size: int) -> Iterator[list[torch.Tensor]]:
    remaining = iter(windows)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def window_features(source: WindowSource, params: Params, device: str) -> dict[str, torch.Tensor]:
    """{layer: (L, C_in) float32} of one window itself, by every backbone, without the cache."""
    found: dict[str, torch.Tensor] = {}
    for modality in MODALITIES:
        for chosen in getattr(params.features, modality):
            backbone = load_backbone(modality, chosen, device)
            windows = window_inputs(source, backbone.input, [0], params.spectrograms)
            rows = run_backbone(backbone, windows, length=params.features.length)
            found |= {layer: values[0] for layer, values in rows.items()}
    return found


def _compute_piece(piece: _Piece) -> dict[str, str]:
    """{key: why its row cannot be stored}."""
    if staged_piece(piece.cache, piece.variant, piece.keys).exists():  # another run on the same cache was faster
        return {}
    backbone = load_backbone(piece.variant.modality, piece.params, piece.device)
    features = run_backbone(backbone, _piece_inputs(piece, backbone.input), length=piece.variant.length)
    arrays = {layer: rows.numpy() for layer, rows in features.items()}
    return stage_piece(piece.cache, piece.variant, piece.keys, arrays, _versions())


def _piece_inputs(piece: _Piece, takes: Input) -> Iterator[torch.Tensor]:
    for _, rows in itertools.groupby(piece.rows, key=lambda row: (row[0].clip.clip_id, row[0].window)):
        of_window = list(rows)
        yield from window_inputs(of_window[0][0], takes, [view for _, view in of_window], piece.spectrograms)


def _index_attributes(columns: list[Column], params: Params) -> IndexAttributes:
    return IndexAttributes(
        views=params.features.views,
        variants=[column.variant for column in columns],
        layers=[layer for column in columns for layer in column.layers],
        params=params.of_features(),
        versions=_versions(),
    )


@functools.cache
def _versions() -> dict[str, str]:
    libraries = ("bmnas", "torch", "torchaudio", "timm", "facenet-pytorch", "zarr")
    return {name: importlib.metadata.version(name) for name in libraries}


def _index(sources: list[WindowSource]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                **{name: getattr(s.clip, name) for name in ("clip_id", "path", "method", "subject_id", "dataset")},
                **{name: getattr(s.clip, name) for name in ("split", "split_kind", "file_bytes")},
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
