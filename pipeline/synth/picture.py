"""From a head to camera frames: pose, body, background, sensor noise and a first-generation compression."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from pipeline.synth.face import CANVAS_PX, Head, draw_head
from pipeline.synth.identity import Face, Identity, Stream
from pipeline.synth.take import FPS, FRAME_PX, Take

EYE_LEVELS = 4
Retouch = Callable[[int, np.ndarray, float], np.ndarray]


def heads(face: Face, take: Take) -> Callable[[float], Head]:
    """Gives the head with its eyes open so far (0..1, rounded to EYE_LEVELS steps); each level is drawn once."""
    with_eyes = functools.cache(draw_head(face, take.light).with_eyes)
    return lambda eye_opening: with_eyes(round(eye_opening * EYE_LEVELS) / EYE_LEVELS)


def render(identity: Identity, take: Take, mouth: np.ndarray, retouch: Retouch | None = None) -> np.ndarray:
    """Frames (T, 256, 256, 3) uint8 RGB of one take; `mouth` (T, 2) opening and roundness.

    `retouch(frame, canvas, eye_opening)` may change the head's canvas (256, 256, 3) float32, in place or not,
    before the camera sees it: everything after it, noise included, is the same for real and fake pictures.
    """
    times = np.arange(take.frames) / FPS
    poses, eyes = take.motion.pose(times), take.motion.eye_opening(times)
    head_with = heads(identity.face, take)
    back = _backdrop(identity, take)
    noise = take.random(Stream.PIXEL_NOISE)
    frames = np.empty((take.frames, FRAME_PX, FRAME_PX, 3), np.uint8)
    for index, (pose, eye) in enumerate(zip(poses, eyes, strict=True)):
        head = head_with(eye)
        canvas = head.with_mouth(float(mouth[index, 0]), float(mouth[index, 1]))
        if retouch is not None:
            canvas = retouch(index, canvas, eye)
        frames[index] = _camera(_place(canvas, head.alpha, pose, back), take, noise)
    return frames


def canvas_transform(pose: np.ndarray) -> tuple[float, float, float, float, float, float]:
    """Affine map (a, b, c, d, e, f) from frame pixel (x, y) to canvas (a x + b y + c, d x + e y + f)."""
    shift_x, shift_y, roll_degrees, scale = (float(v) for v in pose)
    angle = np.deg2rad(roll_degrees)
    cos, sin = float(np.cos(angle)) / scale, float(np.sin(angle)) / scale
    middle_x, middle_y = FRAME_PX / 2 + shift_x, FRAME_PX / 2 + shift_y
    centre = CANVAS_PX / 2
    return (
        cos, sin, centre - cos * middle_x - sin * middle_y,
        -sin, cos, centre + sin * middle_x - cos * middle_y,
    )  # fmt: skip


def _place(canvas: np.ndarray, alpha: np.ndarray, pose: np.ndarray, back: Image.Image) -> np.ndarray:
    """Head over backdrop: (256, 256, 3) uint8."""
    rgba = np.empty((CANVAS_PX, CANVAS_PX, 4), np.uint8)
    rgba[..., :3] = np.clip(canvas, 0, 255) + 0.5
    rgba[..., 3] = alpha * 255 + 0.5
    moved = Image.fromarray(rgba).transform(
        (FRAME_PX, FRAME_PX), Image.Transform.AFFINE, canvas_transform(pose), Image.Resampling.BILINEAR
    )
    frame = back.copy()
    frame.paste(moved, mask=moved)
    return np.asarray(frame)


def _camera(frame: np.ndarray, take: Take, noise: np.random.Generator) -> np.ndarray:
    """Lens blur, sensor noise and the camera's own JPEG: (256, 256, 3) uint8."""
    # Two passes of a three-tap kernel have the variance of the wanted blur, at a tenth of its price.
    side = np.float32(take.blur_px**2 / 2)
    soft = frame.astype(np.float32)
    soft[1:-1] += side * (soft[:-2] + soft[2:] - 2 * soft[1:-1])
    soft[:, 1:-1] += side * (soft[:, :-2] + soft[:, 2:] - 2 * soft[:, 1:-1])
    soft += noise.standard_normal((FRAME_PX, FRAME_PX, 1), np.float32) * np.float32(take.pixel_noise)
    np.clip(soft, 0, 255, out=soft)
    stored = io.BytesIO()
    Image.fromarray(soft.astype(np.uint8)).save(stored, "JPEG", quality=take.jpeg_quality)
    return np.asarray(Image.open(stored))


def _backdrop(identity: Identity, take: Take) -> Image.Image:
    """Background with neck and shoulders, RGB."""
    rng = take.random(Stream.BACKGROUND)
    y, x = np.mgrid[0:FRAME_PX, 0:FRAME_PX].astype(np.float32)
    ends = rng.uniform(60, 190, (2, 1)) + rng.uniform(-28, 28, (2, 3))
    blend = np.clip(((x - 128) * np.cos(a := rng.uniform(0, 2 * np.pi)) + (y - 128) * np.sin(a)) / 256 + 0.5, 0, 1)
    scene = ends[0] + blend[..., None] * (ends[1] - ends[0])
    for _ in range(int(rng.integers(2, 7))):
        left, top, width, height = rng.uniform((-40, -40, 20, 20), (240, 200, 110, 150))
        box = (x > left) & (x < left + width) & (y > top) & (y < top + height)
        scene[box] = 0.6 * scene[box] + 0.4 * (rng.uniform(40, 215) + rng.uniform(-30, 30, 3))
    scene = gaussian_filter(scene, (4, 4, 0))
    scene += 5 * gaussian_filter(rng.standard_normal((FRAME_PX, FRAME_PX)), 1.5)[..., None]
    scene *= np.array(take.light.colour) * 0.9
    _draw_body(scene, identity.face, take, x, y)
    return Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))


def _draw_body(scene: np.ndarray, face: Face, take: Take, x: np.ndarray, y: np.ndarray) -> None:
    shift_x, shift_y, _, scale = take.motion.base
    middle = FRAME_PX / 2 + shift_x
    chin = FRAME_PX / 2 + shift_y + face.half_height_px * scale
    across = (x - middle) / scale
    lit = np.clip(1.0 - 0.25 * np.abs(across) / 60 + 0.002 * take.light.direction[0] * across, 0.5, 1.1)[..., None]
    lamp = np.array(take.light.colour)
    neck = np.clip((face.half_width_px * 0.56 - np.abs(across)) / 1.5, 0, 1) * (y > chin - 40)
    under_chin = 0.62 + 0.2 * np.clip((y - chin) / 30, 0, 1)[..., None]
    for mask, paint in (
        (neck, np.array(face.skin) * under_chin * lamp),
        (np.clip((y - chin - 12 - (across / 14) ** 2 * 0.9) / 1.5, 0, 1), np.array(face.shirt) * lit * lamp),
    ):
        scene *= 1 - mask[..., None]
        scene += mask[..., None] * paint
