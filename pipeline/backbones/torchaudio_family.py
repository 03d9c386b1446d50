"""torchaudio's wav2vec 2.0, HuBERT and WavLM bundles: `torchaudio:WAV2VEC2_BASE`; they read the waveform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torchaudio
from jaxtyping import Float, Float32, Int16
from torch import Tensor

from pipeline.backbones.base import Backbone, choose_stages
from pipeline.backbones.weights import State, load_state, read_state, seeded
from pipeline.backbones.words import BackboneError, Modality
from pipeline.params import BackboneParams

VERSION = 1  # raise it when the same parameters and weights give other maps
_FACTORIES = {"Wav2Vec2": torchaudio.models.wav2vec2_model, "WavLM": torchaudio.models.wavlm_model}


def build(modality: Modality, params: BackboneParams) -> Backbone:
    """The network up to its deepest chosen transformer layer, built without a download."""
    name = params.name.partition(":")[2]
    bundle = getattr(torchaudio.pipelines, name, None)
    if not isinstance(bundle, torchaudio.pipelines.Wav2Vec2Bundle):
        raise BackboneError(f"backbone {params.name}: not one of torchaudio's bundles: {', '.join(bundle_names())}")
    if modality == "visual":
        raise BackboneError(f"backbone {params.name} hears: it is for features.audio only")
    with seeded(params):
        net = _FACTORIES[bundle._model_type](**bundle._params)

    def download() -> State:
        # torch.hub's own default would let a pickle run code.
        return dict(bundle._get_state_dict({"weights_only": True}))

    state = read_state(params, download)
    if state is not None:
        load_state(net, _weight_norms(state), params.name, ignore=("aux.",))
    chosen = choose_stages(params, len(net.encoder.transformer.layers))
    return SpeechBackbone(modality, params, net, chosen=chosen, normalise=bool(bundle._normalize_waveform))


class SpeechBackbone(Backbone):
    """The outputs of transformer layers over 20 ms steps, (B, T, C)."""

    def __init__(
        self, modality: Modality, params: BackboneParams, net: torch.nn.Module, *, chosen: list[int], normalise: bool
    ) -> None:
        """net: a torchaudio Wav2Vec2Model. normalise: whether it was trained on standardised waveforms."""
        transformer: Any = net.get_submodule("encoder.transformer")
        del transformer.layers[chosen[-1] + 1 :]  # nothing is computed that nobody reads
        channels = transformer.layer_norm.weight.numel()
        super().__init__(
            modality,
            params,
            net,
            input="waveform",
            stages=[(f"layers.{i}", int(channels)) for i in chosen],
            transform="int16 / 32768" + (", minus the window's mean, over its standard deviation" if normalise else ""),
            version=VERSION,
        )
        self._chosen = chosen
        self._normalise = normalise

    def transform(self, windows: Int16[Tensor, "B samples"]) -> Float32[Tensor, "B samples"]:
        """(B, samples) float32."""
        x = windows.float() / 32768
        # torchaudio's own wrapper normalises over the whole batch: a window would depend on its neighbours.
        return torch.nn.functional.layer_norm(x, x.shape[1:]) if self._normalise else x

    def maps(self, windows: Int16[Tensor, "B samples"]) -> Sequence[Float[Tensor, "B _ _"]]:
        """(B, C, T) of each layer."""
        outputs, _ = self.net.extract_features(self.transform(windows).to(self.dtype))  # type: ignore[operator]
        return [outputs[i].transpose(1, 2) for i in self._chosen]


def _weight_norms(state: State) -> State:
    """The tensors under the names of today's weight norm; published files have those of the old one."""
    new = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    renamed = {}
    for name, tensor in state.items():
        stem, _, last = name.rpartition(".")
        renamed[f"{stem}.{new.get(last, last)}" if stem else name] = tensor
    return renamed


def bundle_names() -> list[str]:
    """Those that can be had, without the prefix."""
    bundles = torchaudio.pipelines
    return [n for n in dir(bundles) if isinstance(getattr(bundles, n), bundles.Wav2Vec2Bundle)]
