"""facenet-pytorch's MTCNN (P-, R- and O-Net, weights as they are) driven in batches over frames.

The cascade is facenet-pytorch's, step for step: the same pyramid, the same area resampling, the same thresholds and
suppression. Only a crowd is not looked at as a whole: of a picture's candidates the foremost (certain, at last also
large) are kept, so many that no picture of a few people has more. Faster is what stands around the networks: one
integral image per frame gives every level of the pyramid and every crop by differences of four sums, and candidates of
all frames go through R- and O-Net together. Around the networks all is numpy, whatever runs them; `faces.networks` has
torch do it, channels-last, which on the CPU is faster than onnxruntime for all three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.faces.sums import Floats, Ints, cells, integral, means, resized, totals
from pipeline.faces.suppression import suppressed

THRESHOLDS = (0.6, 0.7, 0.7)  # facenet-pytorch's defaults for the three networks
DEFAULT_FACE_PX = 20  # the smallest face that facenet-pytorch looks for by default
_FACTOR = 0.709
CELL_PX = 12  # P-Net sees a square of so many pixels
_BATCH_PIXELS = 6_000_000  # pixels of frames whose integral images (12 bytes a pixel) are held at once
MOST_FACES = 32  # of one picture
_MOST_SQUARES, _MOST_REFINED = 2000, 400  # so many of a picture's candidates R-Net and O-Net look at
_CROPS = 4000  # that are held at once
_CONTEXT = 1.07  # what R-Net hands to O-Net is wider than the box that comes out; so a known box is widened by as much
_LEAST = 0.5  # around a known face the first level looked at is the one for faces of at least this part of its size ...
_NEAR_LEVELS = 3  # ... and so many in all: in those the known one shows
_NEAR = 3.6  # side of the square searched around a known face, in parts of the face's size that the first level is for


def search_px(min_face_px: float) -> float:
    """The largest size up to `min_face_px` with which the pyramid is a part of facenet-pytorch's default one.

    MTCNN's boxes depend on where the levels of its pyramid lie: of two pyramids out of step, boxes of one and the same
    picture overlap by 0.93 only.
    """
    size = float(DEFAULT_FACE_PX)
    while size / _FACTOR <= min_face_px:
        size /= _FACTOR
    return min(size, min_face_px)


@dataclass(frozen=True)
class Faces:
    """The n faces of one frame, in MTCNN's order (best first)."""

    boxes: NDArray[np.float64]
    """(n, 4) left, top, right, bottom px"""
    probabilities: NDArray[np.float64]
    """(n,)"""
    landmarks: NDArray[np.float64]
    """(n, 5, 2) px: eyes, nose, mouth corners, as the viewer sees them"""

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def sides(self) -> NDArray[np.float64]:
        """(n,) px, the longer ones."""
        return np.asarray((self.boxes[:, 2:] - self.boxes[:, :2]).max(axis=1))

    def take(self, which: Sequence[int] | NDArray[np.bool_] | NDArray[np.int64]) -> Faces:
        """The chosen ones, in the order given."""
        chosen = np.asarray(which, dtype=None if len(which) else int)
        return Faces(self.boxes[chosen], self.probabilities[chosen], self.landmarks[chosen])

    def above(self, probability: float) -> Faces:
        """Those of at least this probability."""
        return self.take(self.probabilities >= probability)

    def shifted(self, by_px: NDArray[np.float64]) -> Faces:
        """All moved by (x, y)."""
        return Faces(self.boxes + np.tile(by_px, 2), self.probabilities, self.landmarks + by_px)

    def towards(self, other: Faces, share: float) -> Faces:
        """Face by face, `share` of the way to `other`'s."""
        fields = ("boxes", "probabilities", "landmarks")
        return Faces(*((1 - share) * getattr(self, name) + share * getattr(other, name) for name in fields))


Net: TypeAlias = Callable[[Floats], tuple[Floats, ...]]
"""Pictures (n, 3, h, w), as `_normal` makes them -> what facenet-pytorch's network gives."""


@dataclass(frozen=True)
class Networks:
    """The three networks, whatever computes them."""

    p: Net
    """-> offsets (n, 4, h', w'), probabilities (n, 2, h', w')"""
    r: Net
    """-> offsets (n, 4), probabilities (n, 2)"""
    o: Net
    """-> offsets (n, 4), landmarks (n, 10), probabilities (n, 2)"""
    pass_pixels: int = 40_000
    """Of a pyramid's level in one pass of P-Net: on the CPU what stays in the cache."""
    batch: int = 8
    """Crops in one pass of R- or O-Net, by the same rule."""


class Mtcnn:
    """The three networks, looking for faces of at least `min_face_px`."""

    def __init__(self, min_face_px: float, networks: Networks) -> None:
        self.min_face_px = min_face_px
        self._nets = networks

    def detect(self, frames: NDArray[np.uint8], *, shrunk: float = 1.0) -> list[Faces]:
        """Every frame's faces; frames: (N, H, W, 3) uint8 RGB.

        shrunk: the frames' size as a part of the picture's. Boxes are the picture's, and so is the pyramid, as far
        as the frames can fill it.
        """
        n_frames, height, width, _ = frames.shape
        whole = round(height / shrunk), round(width / shrunk)
        scales = [CELL_PX / self.min_face_px]
        while min(whole) * scales[-1] >= CELL_PX:
            scales.append(scales[-1] * _FACTOR)
        levels = [(int(whole[0] * scale + 1), int(whole[1] * scale + 1), scale) for scale in scales[:-1]]
        step = max(1, _BATCH_PIXELS // (height * width))
        found: list[Faces] = []
        for i in range(0, n_frames, step):
            searched = _Searched(integral(frames[i : i + step]), shrunk)
            found += self._narrowed(searched, *self._candidates(searched.sums, levels))
        return found

    def detect_near(
        self, frames: NDArray[np.uint8], boxes: Sequence[NDArray[np.float64]], *, shrunk: float = 1.0
    ) -> list[Faces]:
        """Every frame's faces around its `boxes` (n, 4) that are about as large; frames as in `detect`.

        Of the same pyramid's levels, those in which such a face shows are searched, in a window around it only. So
        what is found is what `detect` finds there.
        """
        image = np.repeat(np.arange(len(frames)), [len(some) for some in boxes])
        if len(image) == 0:
            return [_as_faces(*_NONE) for _ in frames]
        places = np.concatenate(list(boxes)).astype(np.float32)
        middles: Floats = (places[:, :2] + places[:, 2:]) / np.float32(2)
        sides = (places[:, 2:] - places[:, :2]).max(axis=1).clip(1)
        level = np.floor(np.log(_LEAST * sides / self.min_face_px) / -math.log(_FACTOR)).clip(0)
        searched = _Searched(integral(frames), shrunk)
        found = []
        for k in range(_NEAR_LEVELS):
            # In double precision: float32 powers differ in the last bit by how many are taken at once.
            power = np.power(np.float64(np.float32(_FACTOR)), level + k).astype(np.float32)
            scale = np.asarray(np.float32(CELL_PX / self.min_face_px) * power, np.float32)
            found.append(self._window(searched, image, middles, scale, k))
        candidates, of = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return self._narrowed(searched, *_merged(candidates, of))

    def refine(self, frames: Sequence[NDArray[np.uint8]], boxes: NDArray[np.float64], *, shrunk: float = 1.0) -> Faces:
        """O-Net alone, one square per frame: the faces that it sees in `boxes` (n, 4), with their probabilities.

        No pyramid is built and no candidate is dropped: a probability below the last of THRESHOLDS says that there
        is no face at that place. The frames must be of one size, they may repeat.
        """
        if len(boxes) == 0:
            return _as_faces(*_NONE)
        squares = _squared(boxes.astype(np.float32))
        extra = (squares[:, 2:] - squares[:, :2]) * (_CONTEXT - 1) / 2
        squares = np.concatenate([squares[:, :2] - extra, squares[:, 2:] + extra], axis=1)
        parts = zip(frames, (squares * shrunk).tolist(), strict=True)
        crops = np.stack([_cut(frame, square) for frame, square in parts])
        offsets, points, scores = self._run(self._nets.o, crops)
        found = np.concatenate([_moved(squares, offsets), scores[:, 1:]], axis=1)
        return _as_faces(found, _landmarks(squares, points))

    def _narrowed(self, searched: _Searched, boxes: Floats, image: Ints) -> list[Faces]:
        """The faces of every frame among P-Net's squares."""
        boxes, image = self._second(searched, boxes, image)
        boxes, points, image = self._third(searched, boxes, image)
        return [_as_faces(boxes[image == i], points[image == i]) for i in range(len(searched.sums))]

    def _candidates(self, sums: NDArray[np.int32], levels: list[tuple[int, int, float]]) -> tuple[Floats, Ints]:
        """P-Net over the pyramid: squares (n, 4) and the frame of each (n,). levels: height, width, scale."""
        found: list[Floats] = [np.zeros((0, 9), np.float32)]
        images: list[Ints] = [np.zeros(0, np.int64)]
        for height, width, scale in levels:
            step = max(1, self._nets.pass_pixels // (height * width))
            level = [self._level(resized(sums[i : i + step], (height, width))) for i in range(0, len(sums), step)]
            offsets, score = (np.concatenate(parts) for parts in zip(*level, strict=True))
            image, row, column = np.nonzero(score >= THRESHOLDS[0])
            box = _cell_boxes(np.stack([column, row], axis=1), scale)
            one = np.concatenate([box, score[image, row, column][:, None], offsets[image, :, row, column]], axis=1)
            kept = suppressed(one[:, :4], one[:, 4], image, 0.5)
            found.append(one[kept])
            images.append(image[kept])
        return _merged(np.concatenate(found), np.concatenate(images))

    def _window(self, searched: _Searched, image: Ints, centres: Floats, scale: Floats, k: int) -> tuple[Floats, Ints]:
        """P-Net's candidates (m, 9) and the frame of each, in a window of one level around each of the centres (n, 2).

        image: (n,) the frame of each; scale: (n,) of its level; k: how many levels behind its first.
        """
        size = int(_NEAR * CELL_PX * _FACTOR**k + 1)
        frame = np.array(searched.sums.shape[2:0:-1]) - 1
        lengths = (np.rint(frame.astype(np.float32) / searched.shrunk) * scale[:, None] + 1).astype(np.int64)
        # An even pixel first: so the networks' pooling meets the same pairs as in the whole level.
        first = np.rint((centres * scale[:, None] - size / 2) / 2).astype(np.int64) * 2
        first = np.minimum(first, (lengths - size + 1) // 2 * 2).clip(0)
        cell = np.minimum(first[:, :, None] + np.arange(size), lengths[:, :, None] - 1)
        begin = cell * frame[:, None] // lengths[:, :, None]
        end = ((cell + 1) * frame[:, None] + lengths[:, :, None] - 1) // lengths[:, :, None]
        (left, top), (right, bottom) = begin.swapaxes(0, 1), end.swapaxes(0, 1)
        offsets, score = self._level(searched.means(image, top, bottom, left, right))
        n, row, column = np.nonzero(score >= THRESHOLDS[0])
        at = np.stack([column, row], axis=1)
        inside = (first[n] + 2 * at + CELL_PX <= lengths[n] + 1).all(axis=1)
        n, row, column, at = n[inside], row[inside], column[inside], at[inside]
        box = _cell_boxes(first[n] // 2 + at, scale[n][:, None])
        found, of = np.concatenate([box, score[n, row, column][:, None], offsets[n, :, row, column]], axis=1), image[n]
        kept = suppressed(found[:, :4], found[:, 4], of, 0.5)
        return found[kept], of[kept]

    def _level(self, pictures: Floats) -> tuple[Floats, Floats]:
        offsets, scores = self._nets.p(_normal(pictures))
        return offsets, scores[:, 1]

    def _second(self, searched: _Searched, boxes: Floats, image: Ints) -> tuple[Floats, Ints]:
        """R-Net: the squares that it takes for faces, moved by its regression."""
        boxes, image, offsets, scores = self._shown(self._nets.r, searched, boxes, image, 24)
        passed = scores[:, 1] > THRESHOLDS[1]
        boxes, image, offsets, score = boxes[passed], image[passed], offsets[passed], scores[passed, 1]
        kept = suppressed(boxes, score, image, 0.7)
        kept = kept[_foremost(_width(boxes[kept]) * score[kept], image[kept], _MOST_REFINED)]
        return _squared(_moved(boxes[kept], offsets[kept])), image[kept]

    def _third(self, searched: _Searched, boxes: Floats, image: Ints) -> tuple[Floats, Floats, Ints]:
        """O-Net: boxes with probabilities (n, 5), landmarks (n, 5, 2), frames (n,)."""
        boxes, image, offsets, points, scores = self._shown(self._nets.o, searched, boxes, image, 48)
        passed = scores[:, 1] > THRESHOLDS[2]
        boxes, image, score = boxes[passed], image[passed], scores[passed, 1:]
        points = _landmarks(boxes, points[passed])
        boxes = np.concatenate([_moved(boxes, offsets[passed]), score], axis=1)
        frames = [np.flatnonzero(image == i) for i in range(len(searched.sums))]
        kept = np.concatenate([which[_nms_of_smaller(boxes[which], 0.7)] for which in frames])
        kept = kept[_foremost(_width(boxes[kept]) * boxes[kept, 4], image[kept], MOST_FACES)]
        return boxes[kept], points[kept], image[kept]

    def _shown(self, net: Net, searched: _Searched, boxes: Floats, image: Ints, size: int) -> tuple[Any, ...]:
        """Those boxes that lie in their picture, the frame of each, and what the network says of each."""
        parts = []
        for i in range(0, max(1, len(boxes)), _CROPS):
            inside, of, crops = searched.crops(boxes[i : i + _CROPS], image[i : i + _CROPS], size)
            parts.append((inside, of, *self._run(net, crops)))
        return tuple(np.concatenate(each) for each in zip(*parts, strict=True))

    def _run(self, net: Net, crops: Floats) -> tuple[Floats, ...]:
        if len(crops) == 0:  # which the networks do not survive
            return tuple(output[:0] for output in net(np.zeros((1, *crops.shape[1:]), np.float32)))
        parts = [net(_normal(crops[i : i + self._nets.batch])) for i in range(0, len(crops), self._nets.batch)]
        return tuple(np.concatenate(outputs) for outputs in zip(*parts, strict=True))


@dataclass(frozen=True)
class _Searched:
    """N frames of one size under search."""

    sums: NDArray[np.int32]
    """(N, H + 1, W + 1, 3)"""
    shrunk: float

    def crops(self, boxes: Floats, image: Ints, size: int) -> tuple[Floats, Ints, Floats]:
        """(boxes, image, crops): crops (n, 3, size, size), area-resampled.

        Boxes that lie wholly outside their picture are dropped.
        """
        rows, columns = self.sums.shape[1:3]
        scale = self.shrunk
        # facenet-pytorch counts pixels from 1: the first is left of where a box begins.
        first = np.rint((np.trunc(boxes[:, :2]).clip(1) - 1) * scale).astype(np.int64)
        last = np.rint(np.trunc(boxes[:, 2:]) * scale).astype(np.int64)
        last = np.minimum(last, [columns - 1, rows - 1])
        inside = (last > first).all(axis=1)
        boxes, image, first, last = boxes[inside], image[inside], first[inside], last[inside]
        left, right = cells(last[:, 0] - first[:, 0], size)
        top, bottom = cells(last[:, 1] - first[:, 1], size)
        edges = (top + first[:, 1:], bottom + first[:, 1:], left + first[:, :1], right + first[:, :1])
        return boxes, image, self.means(image, *edges)

    def means(self, image: Ints, top: Ints, bottom: Ints, left: Ints, right: Ints) -> Floats:
        """(n, 3, h, w): picture i's means of frame image[i], between these rows (n, h) and columns (n, w)."""
        rows, columns = self.sums.shape[1:3]
        flat, row = self.sums.reshape(-1, 3), image[:, None] * rows

        def corners(y: Ints, x: Ints) -> NDArray[np.int32]:
            return np.asarray(flat.take(((row + y) * columns)[:, :, None] + x[:, None, :], axis=0))

        total = corners(bottom, right)
        total -= corners(top, right)
        total -= corners(bottom, left)
        total += corners(top, left)
        return means(total, (bottom - top)[:, :, None] * (right - left)[:, None, :])


_NONE = np.zeros((0, 5), np.float32), np.zeros((0, 5, 2), np.float32)


def _cell_boxes(cell: Ints, scale: float | Floats) -> Floats:
    """(n, 4) px: what P-Net's outputs in columns and rows (n, 2) have seen."""
    seen = cell.astype(np.float32)
    return np.concatenate([np.floor((2 * seen + 1) / scale), np.floor((2 * seen + CELL_PX) / scale)], axis=1)


def _merged(candidates: Floats, image: Ints) -> tuple[Floats, Ints]:
    """Squares (n, 4) of all levels' candidates (m, 9), and the frame of each."""
    kept = suppressed(candidates[:, :4], candidates[:, 4], image, 0.7)
    kept = kept[_foremost(candidates[kept, 4], image[kept], _MOST_SQUARES)]
    boxes, image = candidates[kept], image[kept]
    sides = np.tile(boxes[:, 2:4] - boxes[:, :2], (1, 2))
    return _squared(boxes[:, :4] + boxes[:, 5:] * sides), image


def _normal(pictures: Floats) -> Floats:
    return (pictures - np.float32(127.5)) * np.float32(0.0078125)


def _cut(frame: NDArray[np.uint8], square: list[float]) -> Floats:
    """(3, 48, 48): the square's part of a frame as O-Net wants it."""
    height, width, _ = frame.shape
    left, top = (min(max(int(v), 1), limit) - 1 for v, limit in zip(square[:2], (width, height), strict=True))
    right, bottom = (max(min(int(v), limit), 1) for v, limit in zip(square[2:], (width, height), strict=True))
    part = frame[None, top : max(bottom, top + 1), left : max(right, left + 1)]
    (total,), heights, widths = totals(integral(part), (48, 48))
    # Divided twice, as `interpolate` does, so that O-Net gets the same to the bit.
    mean = total.astype(np.float32) / heights.astype(np.float32)[:, None, None] / widths.astype(np.float32)[:, None]
    return np.asarray(mean.transpose(2, 0, 1))


def _squared(boxes: Floats) -> Floats:
    """Squares of the longer side about the same centres."""
    size = boxes[:, 2:4] - boxes[:, :2]
    side = size.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + size * 0.5 - side * 0.5
    return np.concatenate([corner, corner + side], axis=1)


def _moved(boxes: Floats, offsets: Floats) -> Floats:
    size = boxes[:, 2:4] - boxes[:, :2] + 1
    return np.asarray(boxes + offsets * np.tile(size, (1, 2)))


def _landmarks(squares: Floats, points: Floats) -> Floats:
    size = squares[:, None, 2:4] - squares[:, None, :2] + 1
    return np.asarray(size * points.reshape(-1, 2, 5).swapaxes(1, 2) + squares[:, None, :2] - 1)


def _foremost(weight: Floats, image: Ints, most: int) -> Ints:
    """Which to keep, in their order: of each frame the `most` of largest weight."""
    order = np.argsort(-weight, kind="stable")
    order = order[np.argsort(image[order], kind="stable")]
    counts = np.bincount(image)
    rank = np.arange(len(weight)) - (counts.cumsum() - counts)[image[order]]
    return np.sort(order[rank < most])


def _width(boxes: Floats) -> Floats:
    return np.asarray(boxes[:, 2] - boxes[:, 0])


def _nms_of_smaller(boxes: Floats, threshold: float) -> Ints:
    """What is kept, best first: overlap is measured against the smaller box, which drops a box inside another."""
    order = np.argsort(-boxes[:, 4], kind="stable")
    ordered = boxes[order]
    first = np.maximum(ordered[:, None, :2], ordered[None, :, :2])
    last = np.minimum(ordered[:, None, 2:4], ordered[None, :, 2:4])
    common = (last - first + 1).clip(0).prod(axis=2)
    area = (ordered[:, 2:4] - ordered[:, :2] + 1).prod(axis=1)
    clash = common / np.minimum(area[:, None], area[None, :]) > threshold
    alive = np.ones(len(boxes), dtype=bool)
    for i in range(len(boxes)):
        if alive[i]:
            alive[i + 1 :] &= ~clash[i, i + 1 :]
    return np.asarray(order[alive])


def _as_faces(boxes: Floats, points: Floats) -> Faces:
    flat = boxes.astype(np.float64)
    return Faces(flat[:, :4], flat[:, 4], points.astype(np.float64))
