"""What the windows of a clip become in frozen backbones: each window's input, its forward pass, its rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from cache_schemas.casting import as_stored
from cache_schemas.files import digest
from pipeline.backbones import Backbone, Input, Modality
from pipeline.compute.ahead import one_ahead
from pipeline.params import SpectrogramParams

MODALITIES: tuple[Modality, ...] = ("visual", "audio")
PIECE_ROWS = 8
"""What a killed worker loses at most."""
PASS_WINDOWS = {"cpu": 1, "cuda": PIECE_ROWS}
"""Windows of one forward pass. On the CPU more save nothing, and for some networks change the last bits."""
NEEDED: Mapping[Input, tuple[str, ...]] = {
    "crops": ("crops",),
    "spectrogram": ("spectrogram", "waveform"),
    "waveform": ("waveform",),
}
"""The arrays that the views of a backbone's input are made from; the first is view 0, the window itself."""


def window_rows(
    arrays: Mapping[float, Mapping[str, NDArray[Any]]],
    backbone: Backbone,
    *,
    clip_id: str = "",
    length: int,
    dtype: str,
    params: SpectrogramParams,
) -> tuple[dict[str, torch.Tensor], dict[int, str]]:
    """({layer: (windows, L, C_in)} as a cache would hold them, {window's number: why it would not}).

    arrays: {start_s: what the stages before `features` store of that window}.
    """
    inputs = (
        each
        for start, stored in arrays.items()
        for each in input_views(stored, backbone.input, clip_id=clip_id, start_s=start, views=[0], params=params)
    )
    rows = run_backbone(backbone, inputs, length=length)
    kept, refused = as_stored({name: x.numpy() for name, x in rows.items()}, dtype)
    return {name: torch.from_numpy(x) for name, x in kept.items()}, refused


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

    stored: the window's arrays that NEEDED names.
    """
    key = digest(clip_id, start_s)
    for view in views:
        if view == 0:  # as it is
            yield torch.from_numpy(stored[NEEDED[takes][0]])
            continue
        from pipeline.features.views import audio_view, sound_view, visual_view  # noqa: PLC0415 - a second of scipy

        if takes == "crops":
            yield torch.from_numpy(visual_view(stored["crops"], key=key, view=view))
        elif takes == "waveform":
            rate = params.sample_rate_hz
            yield torch.from_numpy(audio_view(stored["waveform"], rate_hz=rate, key=key, view=view))
        else:
            pair = sound_view(stored["waveform"], stored["spectrogram"], key=key, view=view, params=params)
            yield torch.from_numpy(pair[1])
