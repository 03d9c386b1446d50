"""Parts of what a window holds, and the window without one of them: regions of the face, bands of the sound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pipeline.faces.crops import in_crop, poses
from pipeline.faces.mtcnn import Faces
from pipeline.params import FaceParams, SpectrogramParams
from pipeline.sound.clip import from_pcm, to_pcm

Window = Mapping[str, NDArray[Any]]
"""What the stages store of one window: "crops", "boxes", "landmarks", "spectrogram", "waveform"."""
BANDS = 6
_MOUTH, _EYE = (0.85, 0.62), (0.36, 0.24)
"""Half the width and height of ellipses about the mouth and about an eye, in distances from the eyes to the mouth.

The mouth comes with what moves along, chin and lower cheeks: who dubs a mouth makes all of that anew."""
_INNER, _OUTER = 0.85, 1.15
"""Where the border of a face begins and ends, in parts of the ellipse that fills its box."""
_BLUR = 1 / 56
"""Of the crop's side, the deviation of the blur: detail goes, colour and shape stay."""


def face_regions(window: Window, params: FaceParams) -> dict[str, NDArray[np.bool_]]:
    """{"mouth", "eyes", "skin", "border", "background": (frames, S, S)}: each pixel of a crop lies in one of them."""
    boxes, landmarks = (window[name].astype(float) for name in ("boxes", "landmarks"))
    faces = Faces(boxes, np.ones(len(boxes)), landmarks)
    found: dict[str, list[NDArray[np.bool_]]] = {}
    for pose, box, points in zip(poses(faces, params.align), boxes, landmarks, strict=True):
        seen = np.concatenate([points, [(box[:2] + box[2:]) / 2]])
        *_, middle = at = in_crop(seen, pose, size_px=params.size_px, margin=params.margin)
        eyes, mouth = at[:2], at[3:5].mean(axis=0)
        # Pixels as complex numbers, turned so that the eyes are level.
        level = np.exp(-1j * np.angle((eyes[1] - eyes[0]) @ [1, 1j]))
        pixels = (np.arange(params.size_px) + 0.5)[:, None] * 1j + np.arange(params.size_px) + 0.5
        far = np.linalg.norm(mouth - eyes.mean(axis=0))
        in_mouth = _radius(pixels, mouth, level, far * np.array(_MOUTH)) < 1
        in_eyes = np.any([_radius(pixels, eye, level, far * np.array(_EYE)) < 1 for eye in eyes], axis=0) & ~in_mouth
        half = (box[2:] - box[:2]) / 2 * params.size_px / (pose.side * (1 + params.margin))
        radius = np.where(in_mouth | in_eyes, np.nan, _radius(pixels, middle, level, half))
        of_frame = {
            "mouth": in_mouth,
            "eyes": in_eyes,
            "skin": radius < _INNER,
            "border": (radius >= _INNER) & (radius < _OUTER),
            "background": radius >= _OUTER,
        }
        for name, mask in of_frame.items():
            found.setdefault(name, []).append(mask)
    return {name: np.stack(masks) for name, masks in found.items()}


def _radius(
    pixels: NDArray[np.complexfloating], middle: NDArray[np.float64], level: complex, half: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How far each pixel lies from the middle of an ellipse, 1 on its edge; half: its axes."""
    away = (pixels - middle @ [1, 1j]) * level
    return np.asarray(np.hypot(away.real / half[0], away.imag / half[1]))


def without_pixels(crops: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The crops (frames, S, S, 3) with what the masks (frames, S, S) cover blurred.

    To take all of it away (by its mean, or by what lies around it) makes a picture that no network has seen; fakes' own
    traces are fine, and a blur takes those.
    """
    return np.stack([_filled(crop, mask) for crop, mask in zip(crops, masks, strict=True)])


def _filled(crop: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    if mask.all() or not mask.any():
        return crop
    blurred = Image.fromarray(crop).filter(ImageFilter.GaussianBlur(_BLUR * len(crop)))
    return np.where(mask[..., None], np.asarray(blurred), crop)


def bands(params: SpectrogramParams) -> Iterator[tuple[float, float]]:
    """(low, high) Hz of each of BANDS, from the lowest on, as wide as each other on the mel scale."""
    yield from pairwise(_hz(np.linspace(0, _mel(params.sample_rate_hz / 2), BANDS + 1)).tolist())


def without_band(window: Window, low_hz: float, high_hz: float, params: SpectrogramParams) -> dict[str, NDArray[Any]]:
    """The window with nothing between the two: in the spectrogram its own floor, in the waveform none of it."""
    spectrum, samples = np.fft.rfft(from_pcm(window["waveform"])), len(window["waveform"])
    hz = np.fft.rfftfreq(samples, 1 / params.sample_rate_hz)
    spectrum[(hz >= low_hz) & (hz < high_hz)] = 0
    top, rows = _mel(params.sample_rate_hz / 2), len(window["spectrogram"])
    # The middles of mel filters; bins of a linear spectrogram lie at 0 and at half the sample rate, too.
    middles = _hz(np.linspace(0, top, rows + 2)[1:-1]) if params.kind == "log_mel" else np.linspace(0, hz[-1], rows)
    gone = (middles >= low_hz) & (middles < high_hz)
    return {
        **window,
        "waveform": to_pcm(np.fft.irfft(spectrum, samples).astype(np.float32)),
        "spectrogram": np.where(gone[:, None], window["spectrogram"].min(), window["spectrogram"]),
    }


def _mel(hz: float) -> float:
    return float(2595 * np.log10(1 + hz / 700))


def _hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(700 * (10 ** (mel / 2595) - 1))
