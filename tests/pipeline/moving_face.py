"""Clips of one photographed face that moves as told: the real detector on a real face, without a media file."""

from __future__ import annotations

import functools

import numpy as np
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray
from PIL import Image


@functools.cache
def photograph(scale: float = 0.5) -> NDArray[np.uint8]:
    """Matplotlib's sample portrait, (H, W, 3) uint8; at scale 0.5 its face is about 100 px high."""
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        size = (round(image.width * scale), round(image.height * scale))
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))


def scene(shade: int = 90, height: int = 288, width: int = 360) -> NDArray[np.uint8]:
    """A faceless picture: a smooth pattern."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = shade + 30 * np.sin(rows / 23 + shade) + 30 * np.cos(columns / 31)
    return np.stack([waves, waves * 0.9, waves * 0.8], axis=2).clip(0, 255).astype(np.uint8)


def with_face(background: NDArray[np.uint8], left: float, top: float, scale: float = 0.5) -> NDArray[np.uint8]:
    """The background with the photograph on it; (left, top) px may be fractions and may lie outside."""
    image = Image.fromarray(photograph(scale))
    whole = (int(np.floor(left)), int(np.floor(top)))
    shift = (1, 0, whole[0] - left, 0, 1, whole[1] - top)
    moved = image.transform((image.width, image.height), Image.Transform.AFFINE, shift, Image.Resampling.BILINEAR)
    picture = Image.fromarray(background)
    picture.paste(moved, whole)
    return np.asarray(picture)


def noisy(frames: NDArray[np.uint8], seed: int = 0, amount: float = 4.0) -> NDArray[np.uint8]:
    """The same with a camera's noise."""
    noise = np.random.default_rng(seed).normal(0, amount, frames.shape)
    return (frames + noise).clip(0, 255).astype(np.uint8)
