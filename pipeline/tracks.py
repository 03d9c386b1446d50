"""Face tracks: detections linked from frame to frame, and the crops that are cut along one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import median_filter

_MAX_SHIFT = 0.7
"""Between neighbouring frames a face moves by less than this part of its own side, or it is another person."""
_MAX_SCALE = 1.8
_MAX_GAP = 4
"""A track that was not seen for more frames is over."""


@dataclass(frozen=True)
class Detection:
    """One face in one frame: box (4,) left, top, right, bottom px; landmarks (5, 2) px."""

    box: NDArray[np.float64]
    probability: float
    landmarks: NDArray[np.float64]

    @property
    def side(self) -> float:
        """The longer side of the box, px."""
        return float(max(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    @property
    def centre(self) -> NDArray[np.float64]:
        """(x, y) px."""
        return (self.box[:2] + self.box[2:]) / 2


@dataclass(frozen=True)
class Pose:
    """Where a crop is cut: centre (x, y) px, side px, and roll in radians, positive when the right eye is lower."""

    centre: NDArray[np.float64]
    side: float
    roll: float


@dataclass(frozen=True)
class Track:
    """One person through all T frames; gaps are interpolated, ends are held."""

    seen: NDArray[np.bool_]
    """(T,)"""
    boxes: NDArray[np.float64]
    """(T, 4) px"""
    probabilities: NDArray[np.float64]
    """(T,), 0 where not seen"""
    landmarks: NDArray[np.float64]
    """(T, 5, 2) px"""

    @property
    def weight(self) -> float:
        """Frames seen times mean side: the most persistent, largest face has the most."""
        sides = np.maximum(self.boxes[:, 2] - self.boxes[:, 0], self.boxes[:, 3] - self.boxes[:, 1])
        return float((sides * self.probabilities)[self.seen].sum())

    def poses(self) -> list[Pose]:
        """One a frame; the roll is the eye line's, a median of three frames so that one bad landmark tips nothing."""
        eyes = self.landmarks[:, 1] - self.landmarks[:, 0]
        rolls = median_filter(np.arctan2(eyes[:, 1], eyes[:, 0]), size=3, mode="nearest")
        sides = np.maximum(self.boxes[:, 2] - self.boxes[:, 0], self.boxes[:, 3] - self.boxes[:, 1])
        centres = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2
        return [Pose(c, float(s), float(r)) for c, s, r in zip(centres, sides, rolls, strict=True)]


def link_tracks(frames: list[list[Detection]]) -> list[Track]:
    """The tracks in `frames`, one list of detections a frame, in the order of their first frame.

    A detection continues the track whose last box is nearest, relative to the face's size, if it is near enough
    and of like size; else it begins a new one.
    """
    tracks: list[dict[int, Detection]] = []
    for t, detections in enumerate(frames):
        pairs = sorted(
            (distance, k, d)
            for k, track in enumerate(tracks)
            for d, detection in enumerate(detections)
            if (distance := _distance(track, t, detection)) < _MAX_SHIFT
        )
        taken_tracks: set[int] = set()
        taken: set[int] = set()
        for _, k, d in pairs:
            if k not in taken_tracks and d not in taken:
                tracks[k][t] = detections[d]
                taken_tracks.add(k)
                taken.add(d)
        tracks += [{t: detection} for d, detection in enumerate(detections) if d not in taken]
    return [_complete(track, len(frames)) for track in tracks]


def best_track(tracks: list[Track]) -> Track:
    """The most persistent, largest face; the earliest of equals."""
    return max(tracks, key=lambda track: track.weight)


def _distance(track: dict[int, Detection], t: int, detection: Detection) -> float:
    last_t = max(track)
    last = track[last_t]
    ratio = detection.side / max(last.side, 1e-6)
    if t - last_t > _MAX_GAP or not 1 / _MAX_SCALE < ratio < _MAX_SCALE:
        return float("inf")
    return float(np.linalg.norm(detection.centre - last.centre)) / max(last.side, detection.side)


def _complete(track: dict[int, Detection], n_frames: int) -> Track:
    known = sorted(track)
    every = np.arange(n_frames)
    flat = np.stack([np.concatenate([track[t].box, track[t].landmarks.ravel()]) for t in known])
    full = np.stack([np.interp(every, known, flat[:, column]) for column in range(flat.shape[1])], axis=1)
    seen = np.zeros(n_frames, dtype=bool)
    seen[known] = True
    probabilities = np.zeros(n_frames)
    probabilities[known] = [track[t].probability for t in known]
    return Track(seen, full[:, :4], probabilities, full[:, 4:].reshape(n_frames, 5, 2))


def cut_crop(frame: NDArray[np.uint8], pose: Pose, *, size_px: int, margin: float) -> NDArray[np.uint8]:
    """(size_px, size_px, 3) uint8: the square around the face, turned so that the eyes are level.

    Beyond the picture its edge is repeated. Large faces are cut at a multiple of the size and averaged down, so
    that nothing aliases.
    """
    side = max(pose.side * (1 + margin), 2.0)
    # The part of the picture that any rotation of the square can reach, with the edge repeated around it.
    reach = int(np.ceil(side * 0.72)) + 2
    left, top = np.floor(pose.centre).astype(int) - reach
    rows = np.clip(np.arange(top, top + 2 * reach + 1), 0, frame.shape[0] - 1)
    columns = np.clip(np.arange(left, left + 2 * reach + 1), 0, frame.shape[1] - 1)
    patch = Image.fromarray(frame[np.ix_(rows, columns)])
    factor = max(1, int(np.ceil(side / size_px)))
    size = size_px * factor
    # Output (u, v) -> picture: centre + R(roll) * step * ((u, v) - size / 2).
    step = side / size
    a, b = step * np.cos(pose.roll), -step * np.sin(pose.roll)
    x, y = pose.centre - (left, top) + 0.5
    half = size / 2
    affine = (a, b, x - (a + b) * half, -b, a, y - (a - b) * half)
    crop = patch.transform((size, size), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    return np.asarray(crop.reduce(factor) if factor > 1 else crop)
