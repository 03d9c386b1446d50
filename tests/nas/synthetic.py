"""Synthetic features for the tests: noise, and a label carried by the interaction of two layers."""

import torch
from torch import Tensor

HERE = torch.get_default_device()
"""The device that the tests run on; see conftest.py."""
VISUAL, AUDIO = "visual/l1", "audio/l2"


def noise(
    windows: int = 48, length: int = 4, widths: tuple[int, ...] = (5, 7), seed: int = 0
) -> tuple[dict[str, Tensor], Tensor, list[str]]:
    """Return features, labels and split (half train, a quarter val, a quarter test) without any signal."""
    source = torch.Generator().manual_seed(seed)
    features = {
        f"{modality}/l{i}": torch.randn(windows, length, width, generator=source)
        for modality in ("visual", "audio")
        for i, width in enumerate(widths)
    }
    labels = torch.arange(windows) % 2
    split = ["train"] * (windows // 2) + ["val"] * (windows // 4) + ["test"] * (windows - 3 * (windows // 4))
    return features, labels, split


def planted(
    windows: int = 600, width: int = 12, length: int = 4, amplitude: float = 2.0, seed: int = 0
) -> tuple[dict[str, Tensor], Tensor, list[str]]:
    """Return data of 4 + 4 layers whose label is the XOR of a sign in VISUAL and a sign in AUDIO.

    Each sign moves its layer along one random unit direction; neither sign alone tells anything about the label.
    """
    source = torch.Generator().manual_seed(seed)
    features, _, split = noise(windows, length, (width,) * 4, seed)
    signs = torch.randint(0, 2, (2, windows), generator=source) * 2.0 - 1.0
    for name, sign in zip((VISUAL, AUDIO), signs, strict=True):
        direction = torch.randn(width, generator=source)
        direction /= direction.norm()
        features[name] += amplitude * sign[:, None, None] * direction
    return features, (signs[0] != signs[1]).long(), split


def with_views(
    data: tuple[dict[str, Tensor], Tensor, list[str]], views: int, strength: float = 0.0
) -> tuple[dict[str, Tensor], Tensor, list[str]]:
    """Return the data with a views axis: view 0 is the given one, the others are it plus noise of `strength`."""
    features, labels, split = data
    source = torch.Generator().manual_seed(views)
    stacked = {}
    for name, x in features.items():
        stacked[name] = x.repeat(views, 1, 1, 1)
        stacked[name][1:] += strength * torch.randn(stacked[name][1:].shape, generator=source)
    return stacked, labels, split
