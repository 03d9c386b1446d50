"""Arrays as pictures that stand in the page itself, by Pillow alone."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_FACE_PX, _SPECTRUM_PX = 144, (960, 192)
_JPEG_QUALITY = 78
_HEAT = np.array(
    [(0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122), (229, 80, 100), (251, 135, 97),
     (254, 194, 135), (252, 253, 191)]
)  # fmt: skip
"""Some colours of matplotlib's magma, dark to bright; between them it is nearly straight."""


@dataclass(frozen=True)
class Picture:
    """A data URI and its size in px."""

    uri: str
    width: int
    height: int


def data_uri(kind: str, content: bytes) -> str:
    """ "data:KIND;base64,..." """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def faces(crops: NDArray[np.uint8], most: int) -> list[Picture]:
    """At most so many of the crops (frames, H, W, 3), evenly spread, in order of time."""
    chosen = (
        np.unique(((np.arange(most) + 0.5) * len(crops) / most).astype(int)) if len(crops) > most else range(len(crops))
    )
    return [_jpeg(Image.fromarray(crops[number]).resize((_FACE_PX, _FACE_PX))) for number in chosen]


def spectrum(power: NDArray[np.float32]) -> Picture:
    """(bands, hops) ln power; low bands at the bottom, the loudest brightest."""
    low, high = np.percentile(power, [1, 99.8])
    level = ((power - low) / max(float(high - low), 1e-6)).clip(0, 1)[::-1]
    stops = np.linspace(0, 1, len(_HEAT))
    colours = np.stack([np.interp(level, stops, _HEAT[:, channel]) for channel in range(3)], axis=-1)
    return _jpeg(Image.fromarray(colours.round().astype(np.uint8)).resize(_SPECTRUM_PX))


def _jpeg(image: Image.Image) -> Picture:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_JPEG_QUALITY)
    return Picture(data_uri("image/jpeg", file.getvalue()), *image.size)
