"""Cutting a face out of a picture: where (by its box, or by its five landmarks) and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.faces.mtcnn import Faces

# Where eyes, nose and mouth corners of a frontal face lie in MTCNN's box, from its middle, in parts of the box's side:
# the widely used template of five points (ArcFace's), in the scale and place at which MTCNN draws its boxes.
_TEMPLATE = np.array([[-0.172, -0.13], [0.172, -0.13], [0.0, 0.065], [-0.142, 0.255], [0.142, 0.255]])


@dataclass(frozen=True)
class Pose:
    """Where a crop is cut: centre (x, y) px, side px, and roll in radians, positive when the right eye is lower."""

    centre: NDArray[np.float64]
    side: float
    roll: float


def poses(faces: Faces, align: Literal["none", "similarity"]) -> list[Pose]:
    """One a face. none: the square about the box; similarity: turned, sized and placed by all five landmarks."""
    if align == "none":
        centres = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
        return [Pose(centre, float(side), 0.0) for centre, side in zip(centres, faces.sides, strict=True)]
    return [_similarity(points) for points in faces.landmarks]


def _similarity(points: NDArray[np.float64]) -> Pose:
    """The least-squares similarity that takes the template to the landmarks (5, 2), as complex numbers: a z + b."""
    template, seen = (_TEMPLATE @ [1, 1j]), points @ [1, 1j]
    middle = template.mean()
    turn = np.vdot(template - middle, seen - seen.mean()) / np.vdot(template - middle, template - middle).real
    centre = seen.mean() - turn * middle
    return Pose(np.array([centre.real, centre.imag]), float(abs(turn)), float(np.angle(turn)))


def cut_crop(frame: NDArray[np.uint8], pose: Pose, *, size_px: int, margin: float) -> NDArray[np.uint8]:
    """(size_px, size_px, 3) uint8: the square around the face, turned so that the face is upright.

    Beyond the picture its edge is repeated. Large faces are first averaged down by a whole number, so that nothing
    aliases; then the square is resampled once, bicubically.
    """
    side = max(pose.side * (1 + margin), 2.0)
    factor = max(1, round(side / size_px))
    cosine, sine = float(np.cos(pose.roll)), float(np.sin(pose.roll))
    # The part of the picture that the turned square covers, with the edge repeated around it.
    reach = int(np.ceil(side / 2 * (abs(cosine) + abs(sine)))) + 2 * factor
    left, top = np.floor(pose.centre).astype(int) - reach
    patch = Image.fromarray(_patch(frame, left, top, 2 * reach + 1))
    if factor > 1:
        patch = patch.reduce(factor)
    # Output (u, v) -> patch: centre + R(roll) * step * ((u, v) - size / 2).
    step = side / size_px / factor
    a, b = step * cosine, -step * sine
    x, y = (pose.centre - (left, top) + 0.5) / factor
    half = size_px / 2
    affine = (a, b, x - (a + b) * half, -b, a, y - (a - b) * half)
    crop = patch.transform((size_px, size_px), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    return np.asarray(crop)


def in_crop(points: NDArray[np.float64], pose: Pose, *, size_px: int, margin: float) -> NDArray[np.float64]:
    """(N, 2) px from the crop's left upper corner: where `cut_crop` brings points (N, 2) of the picture."""
    away = (points - pose.centre) @ [1, 1j] * np.exp(-1j * pose.roll) * size_px / max(pose.side * (1 + margin), 2.0)
    return np.stack([away.real, away.imag], axis=1) + size_px / 2


def _patch(frame: NDArray[np.uint8], left: int, top: int, size: int) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    if left >= 0 and top >= 0 and left + size <= width and top + size <= height:
        return frame[top : top + size, left : left + size]
    rows = np.clip(np.arange(top, top + size), 0, height - 1)
    columns = np.clip(np.arange(left, left + size), 0, width - 1)
    return frame[rows[:, None], columns]
