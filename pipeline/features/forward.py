"""What the windows of a clip become in frozen backbones: each window's input, its forward pass, its rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cache_schemas.casting import as_stored
from cache_schemas.files import digest
from pipeline.backbones import Input, Modality
from pipeline.compute.ahead import one_ahead
from pipeline.params import SpectrogramParams

MODALITIES: tuple[Modality, ...] = ("visual", "audio")
PIECE_ROWS = 8
"""What a killed worker loses at most; on a GPU it has several pieces at work."""
PASS_WINDOWS = {"cpu": 1, "cuda": PIECE_ROWS}
"""Windows of one forward pass, by device. On the CPU more save nothing, and for some networks change the last bits."""
NEEDED: Mapping[Input, tuple[str, ...]] = {
    "crops": ("crops",),
    "spectrogram": ("spectrogram", "waveform"),
    "waveform": ("waveform",),
}
"""The arrays that the views of a backbone's input are made from; the first is view 0, the window itself."""


class Frozen(Protocol):
    """A backbone, whatever computes it: `pipeline.backbones.Backbone` does by torch."""

    modality: Modality
    input: Input

    @property
    def on(self) -> str:
        """Where it computes, cpu or cuda."""
        ...

    @property
    def layers(self) -> Mapping[str, int]:
        """{layer: C_in}"""
        ...

    def rows(self, windows: NDArray[Any], *, length: int) -> dict[str, NDArray[np.float32]]:
        """{layer: (B, L, C_in)} of B windows of its `input`."""
        ...


def window_rows(
    arrays: Mapping[float, Mapping[str, NDArray[Any]]],
    backbone: Frozen,
    *,
    clip_id: str = "",
    length: int,
    dtype: str,
    params: SpectrogramParams,
) -> tuple[dict[str, NDArray[Any]], dict[int, str]]:
    """({layer: (windows, L, C_in)} as a cache would hold them, {window's number: why it would not}).

    arrays: {start_s: what the stages before `features` store of that window}.
    """
    inputs = (
        each
        for start, stored in arrays.items()
        for each in input_views(stored, backbone.input, clip_id=clip_id, start_s=start, views=[0], params=params)
    )
    return as_stored(run_backbone(backbone, inputs, length=length), dtype)


def run_backbone(backbone: Frozen, windows: Iterable[NDArray[Any]], *, length: int) -> dict[str, NDArray[np.float32]]:
    """{layer: (n, L, C_in)} of n windows, each read while the one before is computed.

    All passes have the same size, the last one is filled up: a window's features depend on no other's, to the bit.
    """
    size = PASS_WINDOWS[backbone.on]
    passes = []
    for batch in one_ahead(_batches(windows, size)):
        filled = np.stack([*batch, *batch[-1:] * (size - len(batch))])
        found = backbone.rows(filled, length=length)
        passes.append({layer: rows[: len(batch)] for layer, rows in found.items()})
    return {layer: np.concatenate([rows[layer] for rows in passes]) for layer in passes[0]}


def _batches(windows: Iterable[NDArray[Any]], size: int) -> Iterator[list[NDArray[Any]]]:
    remaining = iter(windows)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def input_views(
    stored: Mapping[str, NDArray[Any]],
    takes: Input,
    *,
    clip_id: str,
    start_s: float,
    views: Iterable[int],
    params: SpectrogramParams,
) -> Iterator[NDArray[Any]]:
    """Yields views of one window as a backbone takes it: crops, a spectrogram or a waveform.

    stored: the window's arrays that NEEDED names.
    """
    key = digest(clip_id, start_s)
    for view in views:
        if view == 0:  # as it is
            yield stored[NEEDED[takes][0]]
            continue
        from pipeline.features.views import audio_view, sound_view, visual_view  # noqa: PLC0415 - a second of scipy

        if takes == "crops":
            yield visual_view(stored["crops"], key=key, view=view)
        elif takes == "waveform":
            rate = params.sample_rate_hz
            yield audio_view(stored["waveform"], rate_hz=rate, key=key, view=view)
        else:
            pair = sound_view(stored["waveform"], stored["spectrogram"], key=key, view=view, params=params)
            yield pair[1]
