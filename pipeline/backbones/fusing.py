"""Folds batch norms into the convolutions before them: one pass over a feature map instead of two."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

FOLDING_VERSION = 1  # raise it when a folded network gives other values
TOLERANCE = 1e-4  # largest change of a feature map that folding may make, relative to the map's largest value


def fuse_conv_bn(net: nn.Module, example: torch.Tensor) -> nn.Module:
    """A copy of `net` (in evaluation mode) without the batch norms that directly follow a convolution.

    Which follow which is seen by running `net` on the example. `net` itself comes back where the copy's outputs differ
    by more than TOLERANCE: a network may read a convolution's output behind the norm's back.
    """
    with torch.inference_mode():
        wanted = net(example)
        pairs = _pairs(net, example)
    fused = copy.deepcopy(net).eval()  # a copied torch.fx module is back in training mode
    for conv_name, norm_name in pairs:
        _fold(fused, conv_name, norm_name)
    with torch.inference_mode():
        return fused if largest_error(fused(example), wanted) <= TOLERANCE else net


def largest_error(found: Sequence[torch.Tensor], reference: Sequence[torch.Tensor]) -> float:
    """The largest relative error of a layer."""
    return max(relative_error(a, b) for a, b in zip(found, reference, strict=True))


def relative_error(found: Float[Tensor, "*shape"], reference: Float[Tensor, "*shape"]) -> float:
    """The largest difference over the largest reference value."""
    return float((found.float() - reference).abs().max() / reference.abs().max().clamp_min(1e-12))


def _pairs(net: nn.Module, example: torch.Tensor) -> list[tuple[str, str]]:
    """(convolution, norm) where the norm was given the very tensor that the convolution returned, each run once."""
    names = {module: name for name, module in net.named_modules()}
    made_by: list[tuple[torch.Tensor, nn.Module]] = []  # holds the tensors, so that no id is used twice
    read_by: list[tuple[nn.Module, nn.Module]] = []
    runs: dict[nn.Module, int] = {}

    def saw(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        runs[module] = runs.get(module, 0) + 1
        if isinstance(module, _ConvNd):
            made_by.append((output, module))
        else:
            read_by.extend((conv, module) for tensor, conv in made_by if tensor is inputs[0])

    hooks = [m.register_forward_hook(saw) for m in names if isinstance(m, _ConvNd | _BatchNorm)]
    try:
        net(example)
    finally:
        for hook in hooks:
            hook.remove()
    return [(names[c], names[n]) for c, n in read_by if runs[c] == runs[n] == 1]


def _fold(net: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = cast(_ConvNd, net.get_submodule(conv_name)), cast(_BatchNorm, net.get_submodule(norm_name))
    if norm.running_mean is None or norm.running_var is None:
        return
    # y = (w x + b - mean) * scale + shift, in double precision: the rounding is then that of one float32.
    ones = torch.ones(norm.num_features, dtype=torch.float64)
    scale = (norm.weight if norm.affine else ones).double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = conv.bias.double() if conv.bias is not None else 0 * ones
    shift = (bias - norm.running_mean.double()) * scale + (norm.bias.double() if norm.affine else 0)
    weight = conv.weight.double() * scale.view(-1, *[1] * (conv.weight.ndim - 1))
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
    rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
    net.set_submodule(norm_name, rest)
