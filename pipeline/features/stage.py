"""Stage `features`: frozen backbones, once per window and view, into the feature cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from cache_schemas.content import CacheContent, ControlContent
from cache_schemas.features import (
    Control,
    FeatureCache,
    FeatureCacheWriter,
    IndexAttributes,
    VariantAttributes,
)
from cache_schemas.features.staging import staging_folder
from cache_schemas.features.stored import stored_variants
from cache_schemas.files import digest
from cache_schemas.manifest import Clip, Quarantined, category_of, commonest, write_quarantine
from pipeline.backbones import WAVEFORM_HZ, Backbone, bare_identity, load_backbone, resolved
from pipeline.compute.errand import take_over
from pipeline.compute.machine import of_runs
from pipeline.compute.progress import console, progress_bar
from pipeline.compute.workers import run_tasks, session, worker_count
from pipeline.faces.stage import face_key
from pipeline.features.compute import Piece, compute_pieces, needed, piece_tasks, versions
from pipeline.features.forward import MODALITIES, PIECE_ROWS
from pipeline.features.views import views_of
from pipeline.features.windows import WindowSource, stored_windows, window_sources
from pipeline.params import BackboneParams, Params, layer_prefix
from pipeline.shards.stage import StageError
from pipeline.sound.stage import spectrogram_key
from pipeline.workspace import Workspace

ROUNDS = 3
"""A staged piece that is damaged, or not seen on a network's file system, is computed again so often at most."""
_VIEWS_VERSION = 1
"""Raise it when pipeline.features.views gives other values."""
_PSEUDO_VERSION = 1
"""The same of pseudo-fakes (`smoothed` there)."""


@dataclass(frozen=True)
class Column:
    """One backbone, and the row that each view of each window has in its variant."""

    params: BackboneParams
    variant: VariantAttributes
    keys: tuple[str, ...]
    """(N * (V + P),): the views and then the pseudo-fakes of one window after the other"""
    layers: tuple[str, ...]
    """Those that were asked for; the variant may have more."""


def build_features(workspace: Workspace, params: Params) -> FeatureCache:
    """The finished cache of every window that has crops and a spectrogram."""
    params = params.model_copy(update={"compute": of_runs(params.compute)})
    sources = window_sources(workspace, params)
    if not sources:
        raise StageError(
            "features: no clip has both crops and a spectrogram; see the quarantine lists in "
            f"{workspace.quarantine('faces').parent}"
        )
    width = len(views_of(params.features))
    writer = FeatureCacheWriter(workspace.features)
    with writer.at_work(), session(params.compute):
        columns = [_as_stored(writer, column, sources, params) for column in describe(params, sources)]
        fresh, refused = _fill("features", writer, columns, sources, params)
        failed = _failed_windows(columns, sources, refused)
        _quarantine(workspace, sources, failed, params)
        kept = [i for i in range(len(sources)) if i not in failed]
        rows = {c.variant: [c.keys[i * width + v] for i in kept for v in range(width)] for c in columns}
        index, attributes = _index([sources[i] for i in kept]), _index_attributes(columns, params)
        writer.finish(index, rows, attributes)
        _say("features", sources, fresh, f"; {len(failed)} in quarantine" if failed else "")
        cache = FeatureCache.open(workspace.features)
        CacheContent.of(cache).write(workspace.content)
        control = _control(writer, columns, [sources[i] for i in kept], params)
        writer.finish(index, rows, attributes, control=control)
    if isinstance(control, str) and params.features.random_control:  # else nobody asked for it
        console.print(f"features, random weights: left out: {control}", markup=False, soft_wrap=True)
    cache = FeatureCache.open(workspace.features)
    ControlContent.of(cache).write(workspace.control)
    return cache


def _say(title: str, sources: Sequence[WindowSource], fresh: set[tuple[str, float]], more: str = "") -> None:
    console.print(
        f"{title}: {len({s.clip.clip_id for s in sources})} clips, {len(sources)} windows: "
        f"{len(sources) - len(fresh)} already done, {len(fresh)} computed (of {len({clip for clip, _ in fresh})} "
        f"clips){more}"
    )


def _control(
    writer: FeatureCacheWriter, columns: Sequence[Column], sources: list[WindowSource], params: Params
) -> Control | str:
    """The same windows by the same backbones with random weights, or why there are none. Takes nothing from the cache.

    columns: those of the windows themselves, finished.
    """
    if not params.features.random_control:
        return "params.yaml says features.random_control: false"
    wanted = with_random_weights(params)
    try:
        described = describe(wanted, sources)
    except Exception as error:  # a backbone of one's own may raise anything
        return f"a backbone cannot be had with weights: seed:0: {error}"
    for one, column in zip(columns, described, strict=True):
        same = bare_identity(one.variant.backbone) == bare_identity(column.variant.backbone)
        if same and not one.params.weights.startswith("seed:"):
            return f"backbone {column.params.name} is the same with weights: {column.params.weights}"
    drawn = [_as_stored(writer, column, sources, wanted) for column in described]
    title = "features, random weights"
    fresh, refused = _fill(title, writer, drawn, sources, wanted)
    if refused:
        return next(iter(refused.values()))
    _say(title, sources, fresh)
    return Control({column.variant: column.keys for column in drawn}, _index_attributes(drawn, wanted))


def with_random_weights(params: Params) -> Params:
    """The parameters of the control: all as it is, but for the weights. A probe reads it: the windows are enough."""
    lists: dict[str, Any] = {
        modality: tuple(one.model_copy(update={"weights": "seed:0"}) for one in getattr(params.features, modality))
        for modality in MODALITIES
    }
    return params.model_copy(update={"features": params.features.model_copy(update={**lists, "views": 1, "pseudo": 0})})


def _fill(
    title: str, writer: FeatureCacheWriter, columns: list[Column], sources: list[WindowSource], params: Params
) -> tuple[set[tuple[str, float]], dict[str, str]]:
    """Computes what is missing: ({(clip, start) that were computed}, {key: why its row cannot be stored})."""
    fresh: set[tuple[str, float]] = set()
    refused: dict[str, str] = {}
    for column in columns:
        writer.add_variant(column.variant)
        take_over(staging_folder(writer.path.resolve()) / column.variant.path, params.compute)
    pieces = _missing_pieces(writer, columns, sources, params)
    for _ in range(ROUNDS):
        refused |= _compute(title, writer, columns, pieces, params)
        fresh |= {(stored.clip_id, stored.start_s) for piece in pieces for stored, _ in piece.rows}
        again = _missing_pieces(writer, columns, sources, params)
        pieces = [piece for piece in again if not refused.keys() >= set(piece.keys)]
        if not pieces:
            break
    return fresh, refused


def _failed_windows(columns: list[Column], sources: list[WindowSource], refused: Mapping[str, str]) -> dict[int, str]:
    """{place in `sources`: why} of windows that lack a row of some backbone or view."""
    found: dict[int, str] = {}
    for column in columns if refused else ():
        width = len(column.keys) // len(sources)
        for i, key in enumerate(column.keys):
            if key in refused:
                found.setdefault(i // width, refused[key])
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
            f"{params.max_failed_fraction:g} allows; {commonest(rows)}; all reasons are in {path}"
        )


def _missing_pieces(
    writer: FeatureCacheWriter, columns: list[Column], sources: list[WindowSource], params: Params
) -> list[Piece]:
    """What is to be computed, window by window: all backbones of a window one after the other."""
    cache, views = writer.path.resolve(), views_of(params.features)
    pieces = []
    for column in columns:
        # Backwards: where a pseudo-fake is nothing else than view 0, the view that a key stands for is view 0.
        place = {key: i for i, key in reversed([*enumerate(column.keys)])}
        windows = stored_windows(sources, column.variant.modality)
        missing = writer.missing(column.variant, column.keys)
        for i in range(0, len(missing), PIECE_ROWS):
            keys = tuple(missing[i : i + PIECE_ROWS])
            rows = tuple((windows[place[key] // len(views)], views[place[key] % len(views)]) for key in keys)
            piece = Piece(cache, column.params, column.variant, keys, rows, params.spectrograms, params.compute)
            pieces.append((place[keys[0]], piece))
    return [piece for _, piece in sorted(pieces, key=lambda item: item[0])]


def _compute(
    title: str, writer: FeatureCacheWriter, columns: list[Column], pieces: list[Piece], params: Params
) -> dict[str, str]:
    """Fills in what is missing; shards are packed as soon as they are full. {key: why its row cannot be stored}."""
    total, waiting = sum(len(set(column.keys)) for column in columns), 0
    refused: dict[str, str] = {}
    tasks = piece_tasks(pieces, worker_count(params.compute, len(pieces)) if pieces else 1)
    shown: dict[int, int] = {}
    done = total - sum(len(piece.keys) for piece in pieces)
    packing = Future[None]()
    packing.set_result(None)
    with progress_bar(title, total=total, unit="rows", done=done) as advance, ThreadPoolExecutor(1) as thread:

        def heard(task: Sequence[Piece], share: float) -> None:
            rows = sum(len(piece.keys) for piece in task[: round(share * len(task))])
            more = rows - shown.get(id(task), 0)
            if more > 0:  # less: its worker died, and another one does it again
                advance(more)
                shown[id(task)] = rows

        for task, bad in run_tasks(compute_pieces, tasks, params.compute, heard, most=len(pieces), needs=needed):
            for piece in task:
                writer.staged(piece.variant, piece.keys)
            refused |= bad
            heard(task, 1.0)
            waiting += shown.pop(id(task))
            if waiting >= writer.geometry.shard_rows and packing.done():
                packing.result()
                waiting, packing = 0, thread.submit(_pack_beside, writer.path, columns)
        packing.result()
        for column in columns:
            writer.pack(column.variant, column.keys, final=True)
    return refused


def _pack_beside(cache: Path, columns: Sequence[Column]) -> None:
    """Packs full shards while rows are computed: for a GPU's it takes about as long. By a writer of its own."""
    writer = FeatureCacheWriter(cache)
    for column in columns:
        writer.pack(column.variant, column.keys, final=False)


def describe(params: Params, sources: Sequence[WindowSource]) -> list[Column]:
    """The columns of the cache that `params` ask for. On the CPU: what workers compute on is theirs to know."""
    columns = []
    for modality in MODALITIES:
        for backbone_params in map(resolved, getattr(params.features, modality)):
            backbone = load_backbone(modality, backbone_params, "cpu")
            _refuse_rate(backbone, params.spectrograms.sample_rate_hz)
            variant = VariantAttributes(
                modality=modality,
                name=layer_prefix(backbone.name),
                backbone=backbone.identity(),
                layers=backbone.layers,
                length=params.features.length,
                dtype=params.features.dtype,
            )
            keys = row_keys(variant, sources, params, views_of(params.features))
            columns.append(Column(backbone_params, variant, keys, tuple(variant.layers)))
    return columns


def _refuse_rate(backbone: Backbone, rate_hz: int) -> None:
    """Raises StageError where it would hear sound at another pitch than it is."""
    if backbone.input == "waveform" and rate_hz != WAVEFORM_HZ:
        raise StageError(
            f"backbone {backbone.name} reads waveforms at {WAVEFORM_HZ} Hz; spectrograms.sample_rate_hz is {rate_hz}: "
            f"set it to {WAVEFORM_HZ}"
        )


def _as_stored(writer: FeatureCacheWriter, column: Column, sources: Sequence[WindowSource], params: Params) -> Column:
    """The column in that variant of the cache, of this backbone and with these layers or more, that lacks least."""
    found = [(len(column.keys), False, 0, "", column)]
    for variant in stored_variants(str(writer.path), unreadable=[]):
        if _holds(variant, column.variant):
            writer.add_variant(variant)  # whose arrays' zarr.json may be lost
            keys = row_keys(variant, sources, params, views_of(params.features))
            lacking, making = len(writer.missing(variant, keys)), _making(variant, column)
            if making or not lacking:
                stored = replace(column, params=making or column.params, variant=variant, keys=keys)
                found.append((lacking, variant != column.variant, len(variant.layers), variant.path, stored))
    return min(found, key=lambda each: each[:-1])[-1]


def _holds(variant: VariantAttributes, wanted: VariantAttributes) -> bool:
    """Whether the rows of `variant` are what `wanted` asks for, in all its layers."""
    one, other = ((v.modality, v.name, bare_identity(v.backbone), v.length, v.dtype) for v in (variant, wanted))
    return one == other and variant.layers.items() >= wanted.layers.items()


def _making(variant: VariantAttributes, column: Column) -> BackboneParams | None:
    """What makes all layers of the variant, as the column's parameters make its own; None where that is not known."""
    if variant.layers == column.variant.layers:
        return column.params
    more = column.params.model_copy(update={"layers": len(variant.layers)})
    return more if load_backbone(variant.modality, more, "cpu").layers == variant.layers else None


def _changes(variant: VariantAttributes, source: WindowSource, view: int) -> list[int]:
    """What a row's name says of the view. Pseudo-fakes are of real clips that can be heard, in their sound alone."""
    if view < 0 and variant.modality == "audio" and source.clip.label == 0 and source.info["has_audio"]:
        return [view, _PSEUDO_VERSION]
    return [view, _VIEWS_VERSION] if view > 0 else [0]


def row_keys(
    variant: VariantAttributes, sources: Sequence[WindowSource], params: Params, views: Sequence[int]
) -> tuple[str, ...]:
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
            _changes(variant, source, view),
            digits=32,
        )
        for source in sources
        for view in views
    )


def _index_attributes(columns: list[Column], params: Params) -> IndexAttributes:
    return IndexAttributes(
        views=params.features.views,
        variants=[column.variant for column in columns],
        layers=[layer for column in columns for layer in column.layers],
        params=params.of_features(),
        versions=versions(),
    )


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
