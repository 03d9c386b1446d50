"""Visual manipulations: they change the head's canvas before the camera, which treats all categories alike."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from PIL import Image

from pipeline.synth.face import CANVAS_PX, FACE_Y_PX, face_oval, mouth_oval
from pipeline.synth.identity import Face, Identity, Stream, donor_of, draw_identity
from pipeline.synth.picture import heads
from pipeline.synth.speech import plan_speech
from pipeline.synth.take import Take


@dataclass(frozen=True)
class PatchQuality:
    """How well a generated patch fits in."""

    resolution: float  # of the patch against the canvas
    feather_px: float
    colour_cast: float  # levels of 255 that the colours are off
    colour_match: float  # share of the skin tones' difference that is corrected
    jitter_px: float  # frame-to-frame registration error
    checker: float  # levels of the pixel grid that up-convolutions leave behind


_CRUDE, _FINE = PatchQuality(0.24, 1.5, 16, 0.85, 1.6, 24), PatchQuality(0.9, 18, 2, 1.0, 0.1, 0)  # difficulty 0 and 1


class Patch:
    """A face rendered at lower quality, warped onto the target's face and blended in by a mask: a `Retouch`."""

    def __init__(self, method: str, *, target: Identity, take: Take, mouth: np.ndarray, difficulty: float) -> None:
        """Of a visual method for a take whose real mouth is `mouth` (T, 2)."""
        ends = zip(astuple(_CRUDE), astuple(_FINE), strict=True)
        quality = PatchQuality(*(crude + difficulty * (fine - crude) for crude, fine in ends))
        if method == "face-swap":
            donor = draw_identity(take.seed, donor_of(target.index)).face
            mask = face_oval(target.face, quality.feather_px)
        elif method == "mouth-redub":
            # A different text spoken in the same take: out of step with its sound.
            other = plan_speech(take.random(Stream.FAKE_TEXT), take.speech_s, target.voice.tempo)
            donor, mouth = target.face, other.mouth(take.frames, take.lead_silence_s)
            mask = mouth_oval(target.face, quality.feather_px)
        else:
            raise ValueError(f"method is {method!r}, allowed are 'face-swap' and 'mouth-redub'")
        rng = take.random(Stream.FAKE_VIDEO)
        self._head_with = heads(donor, take)
        self._mouth = mouth
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        self._window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        self._mask = mask[self._window][..., None]
        self._size = round(CANVAS_PX * quality.resolution)
        self._map = _face_to_face(target.face, donor)
        cast = rng.normal(0, 1, 3)
        self._cast = (quality.colour_cast * cast / np.linalg.norm(cast)).astype(np.float32)
        self._match = quality.colour_match
        self._shift: np.ndarray | None = None
        parity = np.indices((self._size, self._size)).sum(0) % 2
        self._checker = (quality.checker * (1 - 2 * parity))[..., None]
        self._jitter = rng.normal(0, quality.jitter_px, (len(mouth), 2))
        self._flicker = rng.normal(0, quality.colour_cast * 0.12, len(mouth))

    def __call__(self, frame: int, canvas: np.ndarray, eye_opening: float) -> np.ndarray:
        head = self._head_with(eye_opening)
        drawn = head.with_mouth(float(self._mouth[frame, 0]), float(self._mouth[frame, 1]))
        patch = self._warp(drawn, self._jitter[frame])[self._window]
        below = canvas[self._window]
        if self._shift is None:
            weight = self._mask / self._mask.sum()
            gap = (below * weight).sum((0, 1)) - (patch * weight).sum((0, 1))
            self._shift = (self._match * gap + self._cast).astype(np.float32)
        patch = patch + (self._shift + np.float32(self._flicker[frame]))
        below += self._mask * (patch - below)
        return canvas

    def _warp(self, drawn: np.ndarray, jitter_px: np.ndarray) -> np.ndarray:
        """Donor canvas in the target's geometry and at the patch's resolution: (256, 256, 3) float32."""
        a, c, e, f = self._map
        whole = (CANVAS_PX, CANVAS_PX)
        image = Image.fromarray(np.clip(drawn, 0, 255).astype(np.uint8)).transform(
            whole, Image.Transform.AFFINE, (a, 0, c + jitter_px[0], 0, e, f + jitter_px[1]), Image.Resampling.BILINEAR
        )
        small = np.asarray(image.resize((self._size, self._size), Image.Resampling.BOX)) + self._checker
        grid = Image.fromarray(np.clip(small, 0, 255).astype(np.uint8))
        return np.asarray(grid.resize(whole, Image.Resampling.BILINEAR), np.float32)


def _face_to_face(target: Face, donor: Face) -> tuple[float, float, float, float]:
    """Map from target to donor canvas, x' = a x + c and y' = e y + f: same width, eyes and mouth aligned."""
    a = donor.half_width_px / target.half_width_px
    e = (donor.mouth_y_px - donor.eye_y_px) / (target.mouth_y_px - target.eye_y_px)
    centre_x, centre_y = CANVAS_PX / 2, CANVAS_PX / 2 + FACE_Y_PX
    return a, centre_x - a * centre_x, e, centre_y + donor.eye_y_px - e * (target.eye_y_px + centre_y)
