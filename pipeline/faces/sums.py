"""Means of any part of a picture, from sums that are taken once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def integral(frames: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(N, H + 1, W + 1, 3) sums of all pixels above and to the left of (N, H, W, 3).

    A sum may overflow: differences of sums are right modulo 2**32, and a crop's total is far below.
    """
    n_frames, height, width, channels = frames.shape
    sums = np.zeros((n_frames, height + 1, width + 1, channels), np.int32)
    inner = sums[:, 1:, 1:]
    np.cumsum(frames, axis=1, dtype=np.int32, out=inner)
    np.cumsum(inner, axis=2, out=inner)
    return sums


def resized(sums: NDArray[np.int32], size: tuple[int, int]) -> Floats:
    """(N, 3, *size): what `interpolate(mode="area")` makes of the whole frames."""
    total, heights, widths = totals(sums, size)
    return means(total, heights[:, None] * widths)


def totals(sums: NDArray[np.int32], size: tuple[int, int]) -> tuple[NDArray[np.int32], Ints, Ints]:
    """(sums of the whole frames' cells (N, *size, 3), the cells' heights, their widths)"""
    lengths = np.array([sums.shape[1] - 1, sums.shape[2] - 1])
    top, bottom = (edge[0] for edge in cells(lengths[:1], size[0]))
    left, right = (edge[0] for edge in cells(lengths[1:], size[1]))
    bands = sums.take(bottom, axis=1) - sums.take(top, axis=1)
    return bands.take(right, axis=2) - bands.take(left, axis=2), bottom - top, right - left


def means(total: NDArray[np.int32], area: Ints) -> Floats:
    """(n, 3, h, w), channels last in memory, of totals (n, h, w, 3) over areas (..., h, w)."""
    found: NDArray[Any] = total.astype(np.float32)
    found /= area.astype(np.float32)[..., None]
    return found.transpose(0, 3, 1, 2)


def cells(lengths: Ints, size: int) -> tuple[Ints, Ints]:
    """(first, end), (n, size) each: `size` cells of every length; they overlap by one where it does not divide."""
    cell = np.arange(size)
    first = cell * lengths[:, None] // size
    end = ((cell + 1) * lengths[:, None] + size - 1) // size
    return first, end
