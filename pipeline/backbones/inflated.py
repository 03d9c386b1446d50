"""The visual network of MFAS (arXiv 1903.06496) and BM-NAS: a ResNet-50 with kernels inflated along time.

The stem looks at single frames. In the four residual stages every 3x3 kernel becomes 3x3x3 and every 1x1 kernel
1x1x1; time is never strided. Two-dimensional weights go into the middle slice of a kernel, zeros into the other two:
so long as it is not trained further, the network sees each frame by itself, exactly as the ResNet-50 does.

The reference taps 512, 1024, 2048 and 2048 channels: the second, third and fourth residual stage, and the fourth's
average over time and space, which is the same at every position along time. They are the last four of five here.
"""

from __future__ import annotations

import torch
import torchvision.models
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.backbones.base import ClipBackbone, choose_stages
from pipeline.backbones.weights import State, load_state, read_state, seeded
from pipeline.backbones.words import BackboneError, Modality
from pipeline.params import BackboneParams

VERSION = 1  # raise it when the same parameters and weights give other maps
_STAGES = (("layer1", 256), ("layer2", 512), ("layer3", 1024), ("layer4", 2048), ("average", 2048))
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(modality: Modality, params: BackboneParams) -> ClipBackbone:
    """The network up to its deepest chosen stage. A file may hold the 2-D ResNet-50's weights or inflated ones."""
    if params.name != "inflated:resnet50":
        raise BackboneError(f"backbone {params.name}: only inflated:resnet50 is there")
    if modality == "audio":
        raise BackboneError(f"backbone {params.name} takes clips: it is for features.visual only")
    chosen = [_STAGES[i] for i in choose_stages(params, len(_STAGES))]
    with seeded(params):
        whole = torchvision.models.resnet50()
        state = whole.state_dict()
        for i in range(1, 5):
            _inflate(whole.get_submodule(f"layer{i}"))
    state = read_state(params, _download) or state
    load_state(whole, _into_middle(state, whole), params.name, ignore=("fc.",))
    net = _InflatedResNet(whole, [stage for stage, _ in chosen])
    return ClipBackbone(modality, params, net, stages=chosen, mean=_MEAN, std=_STD, version=VERSION)


class _InflatedResNet(nn.Module):
    """A stem over frames and residual stages over clips."""

    def __init__(self, whole: torchvision.models.ResNet, taps: list[str]) -> None:
        super().__init__()
        self.taps = taps
        self.conv1, self.bn1, self.relu, self.maxpool = whole.conv1, whole.bn1, whole.relu, whole.maxpool
        deepest = 4 if taps[-1] == "average" else int(taps[-1].removeprefix("layer"))
        self.stages = [f"layer{i}" for i in range(1, deepest + 1)]
        for name in self.stages:
            self.add_module(name, whole.get_submodule(name))

    def forward(self, x: Float[Tensor, "B 3 T S S"]) -> list[Float[Tensor, "B _ _ _ _"]]:
        """[(B, C, T, H, W)] of the taps from (B, 3, T, S, S); the average is (B, C, 1, 1, 1)."""
        frames = x.transpose(1, 2)
        stem = self.maxpool(self.relu(self.bn1(self.conv1(frames.flatten(0, 1)))))
        x = stem.unflatten(0, frames.shape[:2]).transpose(1, 2)
        maps = {}
        for name in self.stages:
            x = maps[name] = self.get_submodule(name)(x)
        maps["average"] = x.mean(dim=(2, 3, 4), keepdim=True)
        return [maps[name] for name in self.taps]


def _inflate(module: nn.Module) -> None:
    """Replaces two-dimensional convolutions and norms in place: k x k becomes k x k x k, stride and padding too."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            k, (stride, _), pad = child.kernel_size[0], child.stride, child.padding[0]
            new: nn.Module = nn.Conv3d(
                child.in_channels, child.out_channels, k, stride=(1, stride, stride), padding=int(pad), bias=False
            )
            setattr(module, name, new)
        elif isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.BatchNorm3d(child.num_features))
        else:
            _inflate(child)


def _into_middle(state: State, net: nn.Module) -> State:
    """The weights with every (O, I, k, k) that the network has as (O, I, k, k, k) put into its middle slice."""
    wanted = net.state_dict()
    found = {}
    for name, tensor in state.items():
        target = wanted.get(name)
        if target is not None and target.ndim == 5 and tensor.ndim == 4:
            inflated = torch.zeros_like(target)
            inflated[:, :, target.shape[2] // 2] = tensor
            tensor = inflated  # noqa: PLW2901
        found[name] = tensor
    return found


def _download() -> State:
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V1  # those of the reference
    return dict(weights.get_state_dict(check_hash=True, weights_only=True))
