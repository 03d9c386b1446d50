"""What changes from one frame to the next: a camera's pan moves every face, a cut ends all."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

_SIDE = 48  # the longer side of the thumbnails that are compared
_SAMPLES = 3  # so many pixels across and down stand for a thumbnail's one
_MAX_SHIFT = 0.3  # of a side: the picture moves by less from one frame to the next, or the two show different things
_LEAST = 0.25  # thumbnail pixels; less is noise, and a slow pan is even enough without
_FINEST = 0.15  # cycles a pixel, standard deviation: finer detail is noise and the thumbnails' aliasing
_CUT = 0.5  # a cut changes the picture by at least this part of its contrast ...
_CUT_RATIO = 3.0  # ... and so many times more than is usual around it
CUT_AROUND = 6
CUT_AHEAD = 2
"""Whether it is a cut is told when so many more pictures are there: a movement goes on."""
_HEAD_CUT = 1 / 3
"""As _CUT, of heads: two people before one plain wall differ by less than two pictures of unlike things, but here."""
_THUMBNAIL = 24
_HEAD = 1.8  # side of the square that holds the head with its hair, in parts of the face's
_HEAD_CELLS = 16


def camera_shifts(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(T - 1, 2) px, (x, y), by which each of the frames (T, H, W, 3) shows its content beside the one before.

    By phase correlation (Kuglin and Hines 1975) of thumbnails, the peak refined by a parabola. What moves before a
    resting ground that shows more than it leaves the highest peak at 0.
    """
    step = max(1, round(max(frames.shape[1:3]) / _SIDE))
    small = _thumbnails(frames, step)
    n_frames, height, width = small.shape
    if n_frames < 2 or min(height, width) < 8:
        return np.zeros((max(n_frames - 1, 0), 2))
    small = (small - small.mean(axis=(1, 2), keepdims=True)) * np.hanning(height)[:, None] * np.hanning(width)
    spectra = np.fft.rfft2(small)
    cross = spectra[1:] * spectra[:-1].conj()
    fine = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.rfftfreq(width) ** 2
    cross *= np.exp(-0.5 * fine / _FINEST**2) / np.maximum(np.abs(cross), 1e-9)
    peaks = np.fft.irfft2(cross, s=(height, width))
    reach = int(_MAX_SHIFT * height), int(_MAX_SHIFT * width)
    rows, columns = (np.arange(-r, r + 1) for r in reach)
    near = peaks[:, rows[:, None], columns]
    y, x = np.unravel_index(near.reshape(n_frames - 1, -1).argmax(axis=1), near.shape[1:])
    frame = np.arange(n_frames - 1)
    y, x = y - reach[0], x - reach[1]
    at = peaks[frame, y, x]
    found = np.stack(
        [
            x + _vertex(peaks[frame, y, x - 1], at, peaks[frame, y, (x + 1) % width]),
            y + _vertex(peaks[frame, y - 1, x], at, peaks[frame, (y + 1) % height, x]),
        ],
        axis=1,
    )
    found[np.abs(found).max(axis=1) < _LEAST] = 0
    return np.asarray(found * step, float)


def _thumbnails(frames: NDArray[np.uint8], step: int) -> NDArray[np.float32]:
    """(T, H // step, W // step): green, means of some pixels of each cell."""
    n_frames, height, width, _ = frames.shape
    height, width = height // step * step, width // step * step
    total = np.zeros((n_frames, height // step, width // step), np.uint16)
    places = np.unique(((np.arange(_SAMPLES) + 0.5) * step / _SAMPLES).astype(int))
    for y, x in itertools.product(places, places):
        total += frames[:, y:height:step, x:width:step, 1]
    return np.asarray(total / len(places) ** 2, np.float32)


def _vertex(before: NDArray[np.float64], at: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a parabola through three neighbours has its top, from the middle one."""
    bend = before - 2 * at + after
    return np.asarray(np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, -1), 0))


def changes(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(T - 1,) how much each frame differs from the one before, in parts of their contrast: about 1 if unrelated."""
    rows, columns = (((np.arange(_THUMBNAIL) + 0.5) * size / _THUMBNAIL).astype(int) for size in frames.shape[1:3])
    small = frames[:, rows[:, None], columns].astype(np.float32).reshape(len(frames), -1)
    contrast = small.std(axis=1)
    return np.asarray(np.abs(np.diff(small, axis=0)).mean(axis=1) / (0.5 * (contrast[1:] + contrast[:-1]) + 5.0), float)


def head_changes(frames: NDArray[np.uint8], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T - 1,) the same of the heads alone, a larger one counting more; boxes: (T, n, 4) px of the faces, n > 0.

    Both frames are compared at one place, between where the face is in the one and in the other.
    """
    places = (boxes[1:] + boxes[:-1]) / 2
    sides = (places[..., 2:] - places[..., :2]).max(axis=2)
    centres = (places[..., :2] + places[..., 2:]) / 2
    samples = _HEAD_CELLS * _SAMPLES
    steps = _HEAD * ((np.arange(samples) + 0.5) / samples - 0.5)
    found = np.zeros(len(places))
    for t, (centre, side) in enumerate(zip(centres, sides, strict=True)):
        columns, rows = (
            (centre[:, axis, None] + side[:, None] * steps).clip(0, frames.shape[2 - axis] - 1).astype(int)
            for axis in (0, 1)
        )
        heads = frames[t : t + 2, rows[:, :, None], columns[:, None, :]].astype(np.float32)
        cells = heads.reshape(2, len(side), _HEAD_CELLS, _SAMPLES, _HEAD_CELLS, _SAMPLES, 3).mean(axis=(3, 5))
        contrast = cells.std(axis=(2, 3, 4)).mean(axis=0) + 5.0
        found[t] = np.average(np.abs(cells[1] - cells[0]).mean(axis=(1, 2, 3)) / contrast, weights=side**2 + 1e-9)
    return found


def cuts(changed: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) whether a scene begins after each change of the whole picture."""
    found = np.zeros(len(changed), dtype=bool)
    for i in np.flatnonzero(changed > _CUT):
        around = _around(changed, int(i), CUT_AROUND)
        found[i] = len(around) == 0 or changed[i] > _CUT_RATIO * np.median(around)
    return found


def head_cuts(changed: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) whether another's head is shown after each change of heads (nan: there was none).

    A head that moves at once looks as new as another's, but for several pictures: a cut stands alone.
    """
    found = np.zeros(len(changed), dtype=bool)
    for i in np.flatnonzero(changed > _HEAD_CUT):
        around = _around(changed, int(i), CUT_AHEAD)
        found[i] = changed[i] > _CUT_RATIO * np.nan_to_num(around).max(initial=0)
    return found


def _around(changed: NDArray[np.float64], i: int, reach: int) -> NDArray[np.float64]:
    return np.delete(changed[max(0, i - reach) : i + reach + 1], min(i, reach))
