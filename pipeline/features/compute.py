"""Computes rows of the feature cache, on workers: pieces of a few rows, that are staged one by one."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cache_schemas.features import VariantAttributes, stage_piece, staged_piece
from pipeline.backbones import Backbone, bare_identity, files_of, load_backbone, moved
from pipeline.compute.ahead import several_at_once
from pipeline.compute.errand import Needs, fetched, hand_over, here, is_made, writing
from pipeline.compute.machine import device_of
from pipeline.compute.workers import tell
from pipeline.features.forward import MODALITIES, run_backbone
from pipeline.features.windows import StoredWindow, WindowSource, stored_inputs, window_inputs
from pipeline.params import BackboneParams, ComputeParams, Params, SpectrogramParams
from pipeline.shards.stage import StageError

TASK_PIECES = {"cpu": 16, "cuda": 128}
"""One task: the fewer there are, the less a scheduler has to do, and the less often a GPU waits for a first piece."""
TASKS_PER_WORKER = 4
"""Towards the end tasks are smaller, so that no worker waits for another's last one."""
PIECES_AT_ONCE = {"cpu": 1, "cuda": 8}
"""Of one worker, a thread each: while the GPU computes one, others are read, wait in pinned memory, or are staged."""
_LIBRARIES = ("bmnas", "torch", "torchaudio", "timm", "facenet-pytorch", "zarr")
_EXTRAS = ("distillmos", "onnxruntime", "pipecat-ai", "transformers")


@dataclass(frozen=True)
class Piece:
    """Rows that are staged together. Paths are absolute: the worker may have started in another folder."""

    cache: Path
    params: BackboneParams
    variant: VariantAttributes
    keys: tuple[str, ...]
    rows: tuple[tuple[StoredWindow, int], ...]
    """The window and the view of every key."""
    spectrograms: SpectrogramParams
    compute: ComputeParams


def piece_tasks(pieces: Sequence[Piece], workers: int) -> Iterator[Sequence[Piece]]:
    """The pieces in order, as tasks: TASK_PIECES each, fewer as soon as few are left for every worker of several."""
    most = TASK_PIECES[device_of(pieces[0].compute)] if pieces else 0
    first = 0
    while first < len(pieces):
        left = (len(pieces) - first) // (TASKS_PER_WORKER * workers)
        size = most if workers == 1 else max(1, min(most, left))
        yield pieces[first : first + size]
        first += size


def needed(pieces: Sequence[Piece]) -> Needs:
    """What a task reads: shards, and the files that backbones are made of."""
    shards = {window.shard for piece in pieces for window, _ in piece.rows}
    networks = {file for params in {piece.params for piece in pieces} for file in files_of(params)}
    return {file: partial(FileIO, file) for file in shards | networks}


def compute_pieces(pieces: Sequence[Piece]) -> dict[str, str]:
    """One task: {key: why its row cannot be stored}."""
    refused: dict[str, str] = {}
    at_once = PIECES_AT_ONCE[device_of(pieces[0].compute)]
    with _fastest_convolutions():
        done = several_at_once(_compute_piece, pieces, map(_backbone, pieces), threads=at_once)
        for i, bad in enumerate(done, start=1):
            refused |= bad
            tell(i / len(pieces))
    return refused


def _compute_piece(piece: Piece, backbone: Backbone) -> dict[str, str]:
    file = staged_piece(piece.cache, piece.variant, piece.keys)
    if is_made(file):  # by another run, or by a worker that died since
        return {}
    rows = [(window._replace(shard=fetched(window.shard)), view) for window, view in piece.rows]
    windows = stored_inputs(rows, backbone.input, piece.spectrograms)
    features = run_backbone(backbone, windows, length=piece.variant.length)
    with writing():
        refused = stage_piece(here(piece.cache), piece.variant, piece.keys, features, versions())
    if len(refused) < len(piece.keys):
        hand_over(file)
    return refused


@contextlib.contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """cuDNN tries its algorithms once for each size of pass, of which there are few, and keeps the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _backbone(piece: Piece) -> Backbone:
    """The one that the rows are named by; raises StageError where this process has another one."""
    wanted, params = bare_identity(piece.variant.backbone), moved(piece.params, fetched)
    for _ in range(2):
        backbone = load_backbone(piece.variant.modality, params, device_of(piece.compute))
        if bare_identity(backbone.identity()) == wanted:
            return backbone
        load_backbone.cache_clear()  # a cluster's worker lives long: the weights may be others since it read them
    raise StageError(
        f"features: a worker has another {piece.params.name} than this command (its weights or its code): start the "
        "workers anew, with the same files"
    )


def window_features(source: WindowSource, params: Params, device: str) -> dict[str, NDArray[np.float32]]:
    """{layer: (L, C_in)} of one window itself, by every backbone, without the cache."""
    found: dict[str, NDArray[np.float32]] = {}
    for modality in MODALITIES:
        for chosen in getattr(params.features, modality):
            backbone = load_backbone(modality, chosen, device)
            windows = window_inputs(source, backbone.input, [0], params.spectrograms)
            rows = run_backbone(backbone, windows, length=params.features.length)
            found |= {layer: values[0] for layer, values in rows.items()}
    return found


@functools.cache
def versions() -> dict[str, str]:
    """{library: its version here}, of those that features may depend on and that are here."""
    found = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    for name in _EXTRAS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
