"""Means of any part of a picture, from sums that are taken once."""

from __future__ import annotations

import torch
from torch import Tensor


def integral(frames: Tensor) -> Tensor:
    """(N, H + 1, W + 1, 3) int32 sums of all pixels above and to the left of (N, H, W, 3) uint8.

    A sum may overflow: differences of sums are right modulo 2**32, and a crop's total is far below.
    """
    n_frames, height, width, channels = frames.shape
    sums = torch.zeros(n_frames, height + 1, width + 1, channels, dtype=torch.int32, device=frames.device)
    torch.cumsum(frames.cumsum(1, dtype=torch.int32), 2, dtype=torch.int32, out=sums[:, 1:, 1:])
    return sums


def resized(sums: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 3, *size) float: what `interpolate(mode="area")` makes of the whole frames."""
    lengths = torch.tensor([sums.shape[1] - 1, sums.shape[2] - 1], device=sums.device)
    top, bottom = (edge[0] for edge in cells(lengths[:1], size[0]))
    left, right = (edge[0] for edge in cells(lengths[1:], size[1]))
    bands = sums.index_select(1, bottom) - sums.index_select(1, top)
    total = bands.index_select(2, right) - bands.index_select(2, left)
    area = (bottom - top)[:, None, None] * (right - left)[:, None]
    return (total / area).permute(0, 3, 1, 2)


def cells(lengths: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(first, end), (n, size) each: `size` cells of every length; they overlap by one where it does not divide."""
    cell = torch.arange(size, device=lengths.device)
    first = cell * lengths[:, None] // size
    end = ((cell + 1) * lengths[:, None] + size - 1) // size
    return first, end
