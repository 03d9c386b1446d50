"""`smart-turn`: the encoder of Whisper Tiny, as it was trained further to hear whether a speaker has finished.

The ONNX file that the package pipecat-ai (BSD-2-Clause) has in it, Smart Turn v3.2; the package itself is not imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from jaxtyping import Float32, Int16
from torch import Tensor

from pipeline.backbones.base import Backbone, choose_stages
from pipeline.backbones.log_mel import log_mel
from pipeline.backbones.onnx_family import Graph, OnnxBackbone
from pipeline.backbones.words import BackboneError, Modality
from pipeline.params import BackboneParams

NAME = "smart-turn"
VERSION = 1  # raise it when the same parameters and file give other maps
_FILE = "audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx"
_TAPS = ("add_20", "add_146", "add_268", "add_390", "add_512", "layer_norm_8")
"""What goes into the four blocks, what comes out of the last, and that normalised."""
_SAMPLES = 128_000  # 8 s at 16 kHz
_STEP = 320  # 20 ms


def build(modality: Modality, params: BackboneParams) -> Backbone:
    """The encoder; windows of up to 8 s."""
    if modality == "visual":
        raise BackboneError(f"backbone {params.name} hears: it is for features.audio only")
    taps = [_TAPS[i] for i in choose_stages(params, len(_TAPS))]
    return SmartTurn(
        modality,
        params,
        Graph(packaged_file(), params),
        taps=taps,
        example=torch.zeros(1, 80, _SAMPLES // 160),
        input="waveform",
        transform="after zeros to 8 s: minus the mean, over the deviation, Whisper's log-mel",
        version=VERSION,
    )


def packaged_file() -> Path:
    """Where the file lies; raises BackboneError where the package is not installed."""
    package = importlib.util.find_spec("pipecat")
    file = (
        Path(package.submodule_search_locations[0]) / _FILE if package and package.submodule_search_locations else None
    )
    if file is None or not file.exists():
        raise BackboneError(f"backbone {NAME} is a file of a package, {_FILE}: pip install --no-deps pipecat-ai")
    return file


class SmartTurn(OnnxBackbone):
    """The outputs of Whisper's blocks over 20 ms steps, (B, T, C)."""

    def transform(self, windows: Int16[Tensor, "B samples"]) -> Float32[Tensor, "B 80 800"]:
        """(B, 80, 800) float32: what is heard stands at the end of 8 s, as the network was trained."""
        if windows.shape[1] > _SAMPLES:
            raise BackboneError(f"backbone {NAME} hears 8 s at most, the windows have {windows.shape[1] / 16000:g}")
        x = torch.nn.functional.pad(windows.float() / 32768, (_SAMPLES - windows.shape[1], 0))
        x = torch.nn.functional.layer_norm(x, x.shape[1:], eps=1e-7)
        return log_mel(x, bands=80)

    def maps(self, windows: Int16[Tensor, "B samples"]) -> list[Tensor]:
        """(B, C, T) of each layer, without the steps of the zeros before."""
        steps = -(-windows.shape[1] // _STEP)
        return [x[..., -steps:] for x in super().maps(windows)]
