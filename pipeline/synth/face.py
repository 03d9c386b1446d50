"""A drawn and shaded head on a square canvas: the still parts once per clip, the mouth once per frame.

Canvas coordinates are pixels from the head's centre, x to the right and y down.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from pipeline.synth.identity import RGB, Face
from pipeline.synth.take import Light

CANVAS_PX = 256
FACE_Y_PX = 6.0  # the head's centre below the canvas's
_AXIS = np.arange(CANVAS_PX, dtype=np.float32) - (CANVAS_PX - 1) / 2
X, Y = np.meshgrid(_AXIS, _AXIS - FACE_Y_PX)

# The windows in which the mouth moves and the eyes blink.
_MOUTH_ROWS = slice(128, 226)
_MOUTH_COLUMNS = slice(80, 176)
_EYE_ROWS = slice(98, 146)

_MOUTH_LINE = np.array((58, 26, 28), np.float32)
_MOUTH_INSIDE = np.array((50, 14, 18), np.float32)
_TONGUE = np.array((150, 68, 70), np.float32)
_TEETH = np.array((226, 220, 208), np.float32)


@dataclass(frozen=True)
class Head:
    """A head without eyes and mouth.

    colour: (256, 256, 3) float32, RGB 0..255. alpha: (256, 256) float32. shade: (256, 256, 1) float32, the
    light that falls on the skin without the lamp's colour `lamp` (3,).
    """

    face: Face
    colour: np.ndarray
    alpha: np.ndarray
    shade: np.ndarray
    lamp: np.ndarray

    def with_eyes(self, opening: float) -> Head:
        """The same head with its eyes open this far (0..1)."""
        canvas = self.colour.copy()
        for side in (-1, 1):
            middle = round(CANVAS_PX / 2 + side * self.face.eye_x_px)
            window = (_EYE_ROWS, slice(middle - 24, middle + 24))
            _draw_eye(canvas[window], self.shade[window] * self.lamp, self.face, side, opening)
        return replace(self, colour=np.clip(canvas, 0, 255))

    def with_mouth(self, opening: float, roundness: float) -> np.ndarray:
        """Colour canvas (256, 256, 3) float32 with the mouth in this state."""
        canvas = self.colour.copy()
        window = (_MOUTH_ROWS, _MOUTH_COLUMNS)
        _draw_mouth(canvas[window], self.shade[window] * self.lamp, self.face, opening, roundness)
        return canvas


def draw_head(face: Face, light: Light) -> Head:
    """Head of this face under this light, without eyes and mouth."""
    inside = _head_distance(face)
    shade, gloss = _shading(face, light, inside)
    colour = _skin(face) * shade[..., None] + gloss[..., None] * 255
    alpha = _cover(inside)
    colour, alpha = _draw_ears(face, shade, colour, alpha)
    _draw_nostrils(colour, face)
    for side in (-1, 1):
        _draw_brow(colour, shade, face, side)
    colour, alpha = _draw_hair(face, light, inside, colour, alpha)
    lamp = np.array(light.colour, np.float32)
    colour = np.clip(colour * lamp, 0, 255).astype(np.float32)
    return Head(face, colour, alpha.astype(np.float32), shade[..., None].astype(np.float32), lamp)


def face_oval(face: Face, feather_px: float) -> np.ndarray:
    """Mask (256, 256) float32 of the face without forehead top and ears, with a soft edge."""
    width = face.half_width_px * 0.84
    top, bottom = face.brow_y_px - 16, face.half_height_px * 0.9
    middle, height = (top + bottom) / 2, (bottom - top) / 2
    radius = np.sqrt((X / width) ** 2 + ((Y - middle) / height) ** 2)
    return _cover((1 - radius) * min(width, height), feather_px).astype(np.float32)


def mouth_oval(face: Face, feather_px: float) -> np.ndarray:
    """Mask (256, 256) float32 of the lower face around the mouth, with a soft edge."""
    width, height = face.half_width_px * 0.72, face.half_height_px * 0.4
    middle = face.mouth_y_px + 2
    radius = ((np.abs(X) / width) ** 3 + (np.abs(Y - middle) / height) ** 3) ** (1 / 3)
    return _cover((1 - radius) * height, feather_px).astype(np.float32)


def _cover(distance_px: np.ndarray, soft_px: float = 1.2) -> np.ndarray:
    """Antialiased coverage 0..1 of a shape from the signed distance to its edge (positive inside)."""
    t = np.clip(distance_px / soft_px + 0.5, 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _blob(x_px: float, y_px: float, width_px: float, height_px: float) -> np.ndarray:
    return np.asarray(np.exp(-0.5 * (((X - x_px) / width_px) ** 2 + ((Y - y_px) / height_px) ** 2)))


def _head_distance(face: Face) -> np.ndarray:
    down = np.clip(Y / face.half_height_px, 0, 1.2)
    width = face.half_width_px * (1 - face.jaw * down**2)
    radius = (np.abs(X / width) ** 2.2 + np.abs(Y / face.half_height_px) ** 2.2) ** (1 / 2.2)
    return np.asarray((1 - radius) * face.half_width_px)


def _shading(face: Face, light: Light, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Diffuse shade around 1 and specular gloss 0..1 of a height field built from the face's measures."""
    depth = np.clip(inside / face.half_width_px, 0.01, 1)
    height = 52 * np.sqrt(np.clip(1 - (1 - depth) ** 2, 0, 1))
    length = face.nose_y_px - face.eye_y_px
    along = np.clip((Y - face.eye_y_px) / length, 0, 1)
    ridge = along * (face.nose_y_px + 6 > Y) * np.exp(-0.5 * (X / (3.2 + 3 * along)) ** 2)
    height += face.nose_height_px * 0.65 * gaussian_filter(ridge, 1.6)
    height += face.nose_height_px * 0.5 * _blob(0, face.nose_y_px - 3, face.nose_width_px * 0.55, 5)
    for side in (-1, 1):
        height += 3.5 * _blob(side * face.nose_width_px * 0.8, face.nose_y_px, 4, 4)
        height -= 5.0 * _blob(side * face.eye_x_px, face.eye_y_px - 1, face.eye_width_px * 0.8, 7)
        height += 3.0 * _blob(side * face.eye_x_px, face.brow_y_px, 15, 5)
        height += 4.0 * _blob(side * face.eye_x_px * 1.1, face.nose_y_px - 4, 15, 13)
    height += 3.5 * _blob(0, face.half_height_px * 0.82, 15, 9)
    height += 3.0 * _blob(0, face.mouth_y_px, face.mouth_width_px, 10)
    height -= 1.5 * _blob(0, (face.nose_y_px + face.mouth_y_px) / 2, 3, 5)
    slope_y, slope_x = np.gradient(height)
    norm = np.sqrt(slope_x**2 + slope_y**2 + 1)
    lx, ly, lz = light.direction
    facing = np.clip((-slope_x * lx - slope_y * ly + lz) / norm, 0, 1)
    # Half-way vector between the lamp and the camera on the z axis.
    hz = np.sqrt((1 + lz) / 2)
    half = np.clip((-slope_x * lx - slope_y * ly + (1 + lz)) / (2 * hz * norm), 0, 1)
    return light.ambient + (1.12 - light.ambient) * facing, 0.10 * half**30


def _skin(face: Face) -> np.ndarray:
    """Skin colour (256, 256, 3) with blush, freckles, beard and grain."""
    rng = np.random.default_rng(face.texture_seed)
    skin = np.broadcast_to(np.array(face.skin), (CANVAS_PX, CANVAS_PX, 3)).copy()
    skin *= 1 + 0.05 * _unit(gaussian_filter(rng.standard_normal(X.shape), 6))[..., None]
    skin *= 1 + 0.015 * rng.standard_normal(X.shape)[..., None]
    blush = sum(_blob(side * face.eye_x_px * 1.15, face.nose_y_px - 2, 13, 10) for side in (-1, 1))
    skin *= 1 - np.multiply.outer(face.cheek * np.asarray(blush), (0.1, 0.8, 0.7))
    if face.freckles:
        dots = gaussian_filter((rng.random(X.shape) > 0.985).astype(float), 0.8)
        zone = np.clip(np.asarray(blush) + _blob(0, face.nose_y_px - 8, 12, 12), 0, 1)
        skin *= 1 - np.multiply.outer(np.clip(2.2 * face.freckles * dots * zone, 0, 0.5), (0.5, 0.7, 0.8))
    if face.beard:
        jaw = 1 - np.clip(_blob(0, 0, face.half_width_px * 0.62, face.half_height_px * 0.36) * 2.4, 0, 1)
        zone = jaw * np.clip((Y - face.nose_y_px - 4) / 8, 0, 1)
        strands = 1 + 0.25 * rng.standard_normal(X.shape)
        weight = np.clip(face.beard * zone * strands, 0, 0.9)[..., None]
        skin = skin * (1 - weight) + np.array(face.hair) * weight
    return skin


def _unit(noise: np.ndarray) -> np.ndarray:
    return np.asarray(noise / noise.std())


def _paint(colour: np.ndarray, mask: np.ndarray, paint: np.ndarray | RGB) -> None:
    """Blend `paint` (3,) or (H, W, 3) into `colour` in place where `mask` (H, W) says."""
    colour += mask[..., None].astype(np.float32) * (np.asarray(paint, np.float32) - colour)


def _draw_ears(face: Face, shade: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ears = np.zeros_like(alpha)
    for side in (-1, 1):
        x, y = (X - side * face.half_width_px * 0.98) / 9, (Y - face.eye_y_px - 12) / 18
        ears = np.maximum(ears, _cover((1 - np.sqrt(x * x + y * y)) * 9))
    rim = np.array(face.skin) * (0.78, 0.7, 0.68)
    behind = np.clip(ears - alpha, 0, 1)
    colour = colour * (1 - behind[..., None]) + behind[..., None] * rim * np.clip(shade.mean(), 0.7, 1)
    return colour, np.maximum(alpha, ears)


def _draw_nostrils(colour: np.ndarray, face: Face) -> None:
    dark = np.array(face.skin) * 0.28
    for side in (-1, 1):
        x = (X - side * face.nose_width_px * 0.45) / 3.2
        y = (Y - face.nose_y_px - 3 + 0.12 * side * X) / 1.9
        _paint(colour, 0.85 * _cover((1 - np.sqrt(x * x + y * y)) * 2, 1.5), dark)
    under = _blob(0, face.nose_y_px + 6, face.nose_width_px * 0.9, 2.2)
    colour *= 1 - 0.22 * under[..., None]


def _draw_eye(colour: np.ndarray, lit: np.ndarray, face: Face, side: int, opening: float) -> None:
    """Draw an eye into its window `colour` (h, w, 3) in place; `lit` (h, w, 3) is the light on it."""
    columns = round(CANVAS_PX / 2 + side * face.eye_x_px)
    x = X[_EYE_ROWS, columns - 24 : columns + 24] - side * face.eye_x_px
    y = Y[_EYE_ROWS, columns - 24 : columns + 24] - face.eye_y_px + side * face.eye_slant * x
    across = np.clip(1 - (x / face.eye_width_px) ** 2, 0, 1)
    upper = -face.eye_height_px * across * opening + 1.5 * (1 - opening)
    lower = face.eye_height_px * 0.75 * across + 0.3
    eye = _cover(np.minimum(y - upper, lower - y), 1.0) * (across > 0)
    socket = np.exp(-0.5 * ((x / (face.eye_width_px * 0.9)) ** 2 + ((y + 1) / 7) ** 2))
    colour *= 1 - 0.16 * socket[..., None]
    _paint(colour, eye, np.array((236, 232, 226)) * np.clip(lit, 0.5, 1.1))
    radius = np.sqrt(x * x + (y + 0.4) ** 2)
    iris_px = face.eye_height_px * 0.92
    ring = np.array(face.iris) * np.clip(radius / iris_px, 0.45, 1)[..., None]
    _paint(colour, eye * _cover(iris_px - radius), ring * np.clip(lit, 0.5, 1.1))
    _paint(colour, eye * _cover(iris_px * 0.48 - radius), (16, 12, 12))
    _paint(colour, eye * _cover(1.3 - np.sqrt((x + 1.6) ** 2 + (y + 2.2) ** 2)), (250, 250, 250))
    _paint(colour, eye * 0.35 * np.exp(-np.clip(y - upper, 0, None) / 1.6), (40, 30, 30))
    lid = np.exp(-0.5 * ((y - upper) / 1.05) ** 2) * (np.abs(x) < face.eye_width_px + 1)
    _paint(colour, 0.9 * lid, (34, 24, 22))
    fold = np.array(face.skin) * 0.4
    _paint(colour, 0.3 * np.exp(-0.5 * (y - upper + 4.5) ** 2) * across**0.5, fold)
    _paint(colour, 0.35 * np.exp(-0.5 * ((y - lower) / 0.8) ** 2) * across**0.5, fold)


def _draw_brow(colour: np.ndarray, shade: np.ndarray, face: Face, side: int) -> None:
    x = side * (X - side * face.eye_x_px)  # positive away from the nose
    reach = face.eye_width_px * 1.25
    y = Y - face.brow_y_px + face.brow_arch_px * (1 - ((x - 3) / reach) ** 2) - 0.05 * x
    thickness = face.brow_thickness_px * np.clip(1.05 - 0.5 * (x / reach + 1) ** 2 / 2.2, 0.25, 1)
    brow = _cover(thickness - np.abs(y), 2.0) * _cover(reach - np.abs(x), 4.0)
    _paint(colour, 0.88 * brow, np.array(face.hair) * 0.75 * np.clip(shade, 0.6, 1.1)[..., None])


def _draw_hair(
    face: Face, light: Light, inside: np.ndarray, colour: np.ndarray, alpha: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(face.texture_seed + 1)
    strands = _unit(gaussian_filter(rng.standard_normal(X.shape), (7, 0.7)))
    volume = face.hair_volume_px if face.hair_style != "receding" else 3.0
    # Above the eyes hair follows the skull; long hair hangs straight down from there.
    skull = inside + volume
    around = _cover(skull) * _cover(face.eye_y_px + 2 - Y, 10)
    if face.hair_style == "long":
        hanging = np.where(Y < 0, skull, face.half_width_px + volume - np.abs(X) + 0.06 * Y)
        around = _cover(hanging) * _cover(face.half_height_px + 4 - Y, 12)
    line = face.hairline_px + 0.5 * face.hair_volume_px * (np.abs(X) / face.half_width_px) ** 2
    if face.hair_style == "fringe":
        line = line + 9 - 0.14 * (X + 30)
    elif face.hair_style == "receding":
        line = line - 6 + 13 * np.cos(X / face.half_width_px * 4.5)
    # On the head: above the hairline and down the temples to the ears.
    temple = np.abs(X) - face.half_width_px * 0.9 - 0.04 * (Y - face.eye_y_px)
    front = _cover(line - Y, 4) + _cover(temple, 4) * _cover(face.eye_y_px + 8 - Y, 6)
    front = np.clip(front, 0, 1) * _cover(inside + 0.5)
    hair = np.clip(front + np.clip(around - alpha, 0, 1), 0, 1)[..., None]
    lit = 0.62 + 0.5 * np.clip(skull / 40, 0, 1) ** 0.5 + 0.0012 * (light.direction[0] * X + light.direction[1] * Y)
    paint = np.array(face.hair) * (np.clip(1 + 0.14 * strands, 0.5, 1.6) * lit)[..., None]
    return colour * (1 - hair) + paint * hair, np.maximum(alpha, around)


def _draw_mouth(colour: np.ndarray, lit: np.ndarray, face: Face, opening: float, roundness: float) -> None:
    """Draw lips, teeth and tongue into the window `colour` (h, w, 3) in place; `lit` (h, w, 3) as for eyes."""
    x, y = X[_MOUTH_ROWS, _MOUTH_COLUMNS], Y[_MOUTH_ROWS, _MOUTH_COLUMNS]
    width = face.mouth_width_px * (1 - 0.36 * max(roundness, 0) + 0.12 * max(-roundness, 0))
    gap = 19.0 * opening * (1 + 0.25 * max(roundness, 0))
    arc = np.clip(1 - (x / width) ** 2, 0, 1)
    within = arc > 0
    bulge = arc**0.8
    corner = -1.2 * (x / width) ** 2
    upper = face.mouth_y_px - 0.25 * gap * bulge + corner
    lower = face.mouth_y_px + 0.75 * gap * bulge + corner
    bow = 1 - 0.35 * np.exp(-0.5 * (x / 3.5) ** 2)
    top = upper - face.upper_lip_px * bulge * bow
    bottom = lower + face.lower_lip_px * bulge
    colour *= 1 - (0.18 * np.exp(-0.5 * ((y - bottom - 3) / 2.2) ** 2) * arc)[..., None]
    tint = np.array(face.lips, np.float32) * (
        1 + 0.10 * np.exp(-0.5 * ((y - (lower + bottom) / 2) / 2) ** 2)[..., None]
    )
    _paint(colour, 0.9 * _cover(np.minimum(y - top, bottom - y)) * within, tint * lit)
    _paint(colour, 0.75 * np.exp(-0.5 * ((y - upper) / 0.9) ** 2) * within, _MOUTH_LINE * lit)
    hole = _cover(np.minimum(y - upper, lower - y)) * within
    _paint(colour, hole, _MOUTH_INSIDE * lit)
    _paint(colour, hole * 0.9 * _cover(y - (lower - 0.3 * gap), 3), _TONGUE * lit)
    teeth = hole * _cover(upper + min(4.5, 0.4 * gap) - y) * _cover(width * 0.8 - np.abs(x), 3)
    _paint(colour, 0.92 * teeth, _TEETH * lit)
