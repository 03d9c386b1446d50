"""torchvision's networks, for those that timm lacks: `torchvision:NAME`, pictures, spectrograms and clips."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torchvision.models
from torch.nn.modules.conv import _ConvNd
from torchvision.models.feature_extraction import create_feature_extractor

from pipeline.backbones.base import Backbone, ClipBackbone, ImageBackbone, choose_stages
from pipeline.backbones.weights import load_state, read_state, seeded
from pipeline.backbones.words import BackboneError, Modality
from pipeline.params import BackboneParams

VERSION = 1  # raise it when the same parameters and weights give other maps
# Their maps are not (N, C, ...) but channels last or tokens, or they take few sizes and lengths. timm has most of them.
_LEFT_OUT = ("swin", "vit_", "mvit", "maxvit", "s3d")
_HEADS = ("avgpool", "classifier", "fc", "aux", "AuxLogits")


def build(modality: Modality, params: BackboneParams) -> Backbone:
    """The network up to its deepest chosen stage; a stage ends where the picture is made smaller next."""
    name = params.name.partition(":")[2]
    clips = name in clip_names()
    if name not in names():
        raise BackboneError(
            f"backbone {params.name}: not one of torchvision's networks with (N, C, ...) maps: {', '.join(names())}"
        )
    if clips and modality == "audio":
        raise BackboneError(f"backbone {params.name} takes clips: it is for features.visual only")
    pretrained = torchvision.models.get_model_weights(name).DEFAULT
    with seeded(params), warnings.catch_warnings(action="ignore", category=FutureWarning):
        net = torchvision.models.get_model(name, weights=None)
    # torch.hub's own default would let a pickle run code.
    state = read_state(params, lambda: pretrained.get_state_dict(check_hash=True, weights_only=True))
    if state is not None:
        load_state(net, state, params.name, ignore=_HEADS)
    net.eval()
    example = torch.zeros(1, 3, 4, 64, 64) if clips else torch.zeros(1, 3, 224, 224)
    stages = _stages(net, example)
    chosen = [stages[i] for i in choose_stages(params, len(stages))]
    # Else a subclass of a convolution is traced into, and no batch norm can be folded into it.
    convolutions = list({type(module) for module in net.modules() if isinstance(module, _ConvNd)})
    taps = _Taps(
        create_feature_extractor(
            net,
            [stage for stage, _ in chosen],
            suppress_diff_warning=True,
            tracer_kwargs={"leaf_modules": convolutions},
        )
    )
    preset = pretrained.transforms()
    if modality == "audio":
        _one_channel(taps, example)
    kind, px = (ClipBackbone, 64) if clips else (ImageBackbone, 224)
    return kind(modality, params, taps, stages=chosen, mean=preset.mean, std=preset.std, example_px=px, version=VERSION)


class _Taps(torch.nn.Module):
    """The extractor's maps as a list."""

    def __init__(self, extractor: torch.nn.Module) -> None:
        super().__init__()
        self.net = extractor

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """[(N, C, H, W)] or [(N, C, T, H, W)]."""
        return list(self.net(x).values())


def clip_names() -> list[str]:
    """Those that read clips."""
    return [name for name in torchvision.models.list_models(module=torchvision.models.video) if name in names()]


def names() -> list[str]:
    """Those that can be had, without the prefix."""
    modules = (torchvision.models, torchvision.models.video)
    found = [name for module in modules for name in torchvision.models.list_models(module=module)]
    return [name for name in found if not name.startswith(_LEFT_OUT)]


def _stages(net: torch.nn.Module, example: torch.Tensor) -> list[tuple[str, int]]:
    """(module, channels) of the last module of each picture size, shallow to deep, down to 2 px."""
    shapes: dict[str, torch.Size] = {}

    def see(name: str) -> Any:
        def saw(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == example.ndim:
                shapes[name] = output.shape

        return saw

    # The network's children, and theirs where they follow one another; a branch within a block is no stage.
    parts = [(name, child) for name, child in net.named_children() if name not in _HEADS]
    trunks = [(name, child) for name, child in parts if isinstance(child, torch.nn.Sequential)]
    parts += [(f"{name}.{part}", module) for name, child in trunks for part, module in child.named_children()]
    hooks = [module.register_forward_hook(see(name)) for name, module in parts]
    with torch.inference_mode():
        net(example)
    for hook in hooks:
        hook.remove()
    return _last_of_each_size(shapes)


def _last_of_each_size(shapes: dict[str, torch.Size]) -> list[tuple[str, int]]:
    """shapes: {module: (N, C, ..., H, W)} in the order of running, a container behind its parts."""
    last: dict[int, tuple[str, int]] = {}
    for name, shape in shapes.items():
        if min(shape[-2:]) >= 2:
            last[shape[-1]] = (name, shape[1])
    # A whole trunk ends where its last part does; the part has the better name.
    named = {}
    for size, (name, channels) in last.items():
        parts = [part for part in shapes if part.startswith(f"{name}.")]
        sizes = {shapes[part][-1] for part in parts}
        named[size] = (parts[-1], channels) if len(sizes) > 1 and shapes[parts[-1]][-1] == size else (name, channels)
    return [named[size] for size in sorted(named, reverse=True)]


def _one_channel(net: torch.nn.Module, example: torch.Tensor) -> None:
    """Gives the stem one channel: its weights over RGB, summed, as timm does it."""
    stem = next(m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.in_channels == example.shape[1])
    stem.weight = torch.nn.Parameter(stem.weight.sum(dim=1, keepdim=True))
    stem.in_channels = 1
