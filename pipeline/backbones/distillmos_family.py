"""`distillmos`: a transformer that was taught to hear how good speech sounds; it reads the waveform.

Its package (extra `speech`, MIT) has the weights in it. Stahl and Gamper, "Distillation and Pruning for Scalable
Self-Supervised Representation-Based Speech Quality Assessment" (arXiv 2502.05356).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32, Int16
from torch import Tensor

from pipeline.backbones.base import Backbone, choose_stages
from pipeline.backbones.weights import State, load_state, read_file, read_state, seeded
from pipeline.backbones.words import BackboneError, Modality
from pipeline.params import BackboneParams

NAME = "distillmos"
VERSION = 1  # raise it when the same parameters and weights give other maps
_PIECE = 122_880
"""Samples, 7.68 s: it has a position for so many steps, and was trained on nothing else."""
_STEP = 320
"""Samples, 20 ms."""


def build(modality: Modality, params: BackboneParams) -> Backbone:
    """The network up to its deepest chosen transformer layer."""
    if modality == "visual":
        raise BackboneError(f"backbone {params.name} hears: it is for features.audio only")
    try:
        package: Any = importlib.import_module("distillmos.sqa")
    except ImportError as error:
        raise BackboneError(f"backbone {params.name} needs a package ({error}): pip install distillmos") from error
    with seeded(params):
        net: Any = package.ConvTransformerSQAModel(load_weights=False)  # its own way of loading would unpickle code
    state = _state(params, Path(package.DEFAULT_WEIGHTS_CHKPT))
    if state is not None:
        load_state(net, state, params.name, ignore=())
    return DistillMos(
        modality,
        params,
        net,
        chosen=choose_stages(params, len(net.transformer_pool_attn.transformer.transformer_encoder.layers)),
    )


def _state(params: BackboneParams, bundled: Path) -> State | None:
    if params.weights == "bundled":
        return read_file(bundled)

    def download() -> State:
        raise OSError("they come with the package, as weights: bundled")

    return read_state(params, download)


class DistillMos(Backbone):
    """The outputs of transformer layers over 20 ms steps, (B, T, C)."""

    def __init__(self, modality: Modality, params: BackboneParams, net: torch.nn.Module, *, chosen: list[int]) -> None:
        """net: the package's model."""
        layers: Any = net.get_submodule("transformer_pool_attn.transformer.transformer_encoder.layers")
        channels = int(layers[0].linear2.out_features)
        del layers[chosen[-1] + 1 :]  # nothing is computed that nobody reads
        super().__init__(
            modality,
            params,
            net,
            input="waveform",
            stages=[(f"layers.{i}", channels) for i in chosen],
            transform="over the window's largest, in pieces of 7.68 s, the last filled up with zeros",
            version=VERSION,
        )
        self._chosen = chosen

    def transform(self, windows: Int16[Tensor, "B samples"]) -> Float32[Tensor, "_ 2 161 768"]:
        """(B * pieces, 2, 161, 768) float32: real and imaginary part of the spectrum, its size to the power of 0.3."""
        x = windows.float()
        x = x / (x.abs().amax(dim=1, keepdim=True) + 1e-8)
        x = torch.nn.functional.pad(x, (0, -x.shape[1] % _PIECE)).view(-1, _PIECE)
        x = torch.nn.functional.pad(x, (80, 80), mode="reflect")
        window = torch.hann_window(320, device=x.device)
        spectrum = torch.stft(x, 320, hop_length=160, window=window, center=False, return_complex=True)
        return torch.view_as_real(spectrum * spectrum.abs().clamp(min=1e-12) ** -0.7).permute(0, 3, 1, 2)

    def maps(self, windows: Int16[Tensor, "B samples"]) -> Sequence[Float[Tensor, "B _ _"]]:
        """(B, C, T) of each layer, without the steps of what was filled up."""
        net: Any = self.net
        head = net.transformer_pool_attn
        x = net.cnn.cnn(self.transform(windows).to(self.dtype)).flatten(1, -2)
        x = head.transformer.norm(head.norm_input(x)).mT
        x = head.transformer.position_encoding(head.transformer.linear_proj(x))
        found = []
        for layer in head.transformer.transformer_encoder.layers:
            x = layer(x)
            found.append(x)
        steps = -(-windows.shape[1] // _STEP)
        return [found[i].reshape(len(windows), -1, x.shape[-1])[:, :steps].mT for i in self._chosen]
