"""facenet-pytorch's MTCNN (P-, R- and O-Net, weights as they are) driven in batches over frames.

The cascade is facenet-pytorch's, step for step: the same pyramid, the same area resampling, the same thresholds and
suppression. Only a crowd is not looked at as a whole: of a picture's candidates the foremost (certain, at last also
large) are kept, so many that no picture of a few people has more. Faster is what stands around the networks: one
integral image per frame gives every level of the pyramid and every crop by differences of four sums, and candidates of
all frames go through R- and O-Net together. The networks run channels-last, which on the CPU is faster than onnxruntime
for all three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import facenet_pytorch
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms

from pipeline.faces.sums import cells, integral, resized

THRESHOLDS = (0.6, 0.7, 0.7)  # facenet-pytorch's defaults for the three networks
DEFAULT_FACE_PX = 20  # the smallest face that facenet-pytorch looks for by default
_FACTOR = 0.709
CELL_PX = 12  # P-Net sees a square of so many pixels
_PASS_PIXELS = {"cpu": 40_000, "cuda": 16_000_000}
"""Pixels of a pyramid's level in one pass of P-Net: on the CPU what stays in the cache."""
_BATCH_PIXELS = 6_000_000  # pixels of frames whose integral images (12 bytes a pixel) are held at once
_NET_BATCH = {"cpu": 8, "cuda": 512}  # crops in one pass of R- or O-Net, by the same rule
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


class Mtcnn:
    """The three networks on one device, looking for faces of at least `min_face_px`."""

    def __init__(self, min_face_px: float, *, device: str = "cpu") -> None:
        self.min_face_px = min_face_px
        self.device = torch.device(device)
        networks = (facenet_pytorch.PNet(), facenet_pytorch.RNet(), facenet_pytorch.ONet())
        self._p, self._r, self._o = (
            net.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last) for net in networks
        )

    @torch.inference_mode()
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
            batch = torch.from_numpy(np.ascontiguousarray(frames[i : i + step])).to(self.device)
            searched = _Searched(integral(batch), shrunk)
            found += self._narrowed(searched, *self._candidates(searched.sums, levels))
        return found

    @torch.inference_mode()
    def detect_near(
        self, frames: NDArray[np.uint8], boxes: Sequence[NDArray[np.float64]], *, shrunk: float = 1.0
    ) -> list[Faces]:
        """Every frame's faces around its `boxes` (n, 4) that are about as large; frames as in `detect`.

        Of the same pyramid's levels, those in which such a face shows are searched, in a window around it only. So
        what is found is what `detect` finds there.
        """
        image = torch.from_numpy(np.repeat(np.arange(len(frames)), [len(some) for some in boxes])).to(self.device)
        if len(image) == 0:
            return [_as_faces(torch.zeros(0, 5), torch.zeros(0, 5, 2)) for _ in frames]
        places = torch.from_numpy(np.concatenate(list(boxes))).float().to(self.device)
        sides = (places[:, 2:] - places[:, :2]).amax(dim=1).clamp(min=1)
        level = torch.floor(torch.log(_LEAST * sides / self.min_face_px) / -math.log(_FACTOR)).clamp(min=0)
        searched = _Searched(integral(torch.from_numpy(np.ascontiguousarray(frames)).to(self.device)), shrunk)
        found = []
        for k in range(_NEAR_LEVELS):
            scale = CELL_PX / self.min_face_px * _FACTOR ** (level + k)
            found.append(self._window(searched, image, (places[:, :2] + places[:, 2:]) / 2, scale, k))
        candidates, of = (torch.cat(parts) for parts in zip(*found, strict=True))
        return self._narrowed(searched, *_merged(candidates, of))

    @torch.inference_mode()
    def refine(self, frames: Sequence[NDArray[np.uint8]], boxes: NDArray[np.float64], *, shrunk: float = 1.0) -> Faces:
        """O-Net alone, one square per frame: the faces that it sees in `boxes` (n, 4), with their probabilities.

        No pyramid is built and no candidate is dropped: a probability below the last of THRESHOLDS says that there
        is no face at that place. The frames must be of one size, they may repeat.
        """
        if len(boxes) == 0:
            return _as_faces(torch.zeros(0, 5), torch.zeros(0, 5, 2))
        squares = _squared(torch.from_numpy(boxes).float())
        extra = (squares[:, 2:] - squares[:, :2]) * (_CONTEXT - 1) / 2
        squares = torch.cat([squares[:, :2] - extra, squares[:, 2:] + extra], dim=1)
        parts = zip(frames, (squares * shrunk).tolist(), strict=True)
        crops = torch.stack([_cut(frame, square) for frame, square in parts])
        offsets, points, scores = self._run(self._o, crops.to(self.device))
        squares = squares.to(self.device)
        return _as_faces(
            torch.cat([_moved(squares, offsets), scores[:, 1:]], dim=1).cpu(), _landmarks(squares, points).cpu()
        )

    def _narrowed(self, searched: _Searched, boxes: Tensor, image: Tensor) -> list[Faces]:
        """The faces of every frame among P-Net's squares."""
        boxes, image = self._second(searched, boxes, image)
        boxes, points, image = self._third(searched, boxes, image)
        boxes, points, image = boxes.cpu(), points.cpu(), image.cpu()
        return [_as_faces(boxes[image == i], points[image == i]) for i in range(len(searched.sums))]

    def _candidates(self, sums: Tensor, levels: list[tuple[int, int, float]]) -> tuple[Tensor, Tensor]:
        """P-Net over the pyramid: squares (n, 4) and the frame of each (n,). levels: height, width, scale."""
        found: list[Tensor] = [torch.zeros(0, 9, device=self.device)]
        images: list[Tensor] = [torch.zeros(0, dtype=torch.long, device=self.device)]
        for height, width, scale in levels:
            step = max(1, _PASS_PIXELS[self.device.type] // (height * width))
            level = [self._level(resized(sums[i : i + step], (height, width))) for i in range(0, len(sums), step)]
            offsets, score = (torch.cat(parts) for parts in zip(*level, strict=True))
            image, row, column = torch.nonzero(score >= THRESHOLDS[0], as_tuple=True)
            cell = torch.stack([column, row], dim=1).float()
            one = torch.cat(
                [_cell_boxes(cell, scale), score[image, row, column][:, None], offsets[image, :, row, column]], dim=1
            )
            kept = batched_nms(one[:, :4], one[:, 4], image, 0.5)
            found.append(one[kept])
            images.append(image[kept])
        return _merged(torch.cat(found), torch.cat(images))

    def _window(
        self, searched: _Searched, image: Tensor, centres: Tensor, scale: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        """P-Net's candidates (m, 9) and the frame of each, in a window of one level around each of the centres (n, 2).

        image: (n,) the frame of each; scale: (n,) of its level; k: how many levels behind its first.
        """
        size = int(_NEAR * CELL_PX * _FACTOR**k + 1)
        frame = torch.tensor(searched.sums.shape[2:0:-1], device=self.device) - 1
        lengths = ((frame / searched.shrunk).round() * scale[:, None] + 1).long()
        # An even pixel first: so the networks' pooling meets the same pairs as in the whole level.
        first = ((centres * scale[:, None] - size / 2) / 2).round().long() * 2
        first = torch.minimum(first, (lengths - size + 1) // 2 * 2).clamp(min=0)
        cell = torch.minimum(first[:, :, None] + torch.arange(size, device=self.device), lengths[:, :, None] - 1)
        begin = cell * frame[:, None] // lengths[:, :, None]
        end = ((cell + 1) * frame[:, None] + lengths[:, :, None] - 1) // lengths[:, :, None]
        (left, top), (right, bottom) = begin.unbind(1), end.unbind(1)
        offsets, score = self._level(searched.means(image, top, bottom, left, right))
        n, row, column = torch.nonzero(score >= THRESHOLDS[0], as_tuple=True)
        at = torch.stack([column, row], dim=1)
        inside = (first[n] + 2 * at + CELL_PX <= lengths[n] + 1).all(dim=1)
        n, row, column, at = n[inside], row[inside], column[inside], at[inside]
        box = _cell_boxes((first[n] // 2 + at).float(), scale[n][:, None])
        found, of = torch.cat([box, score[n, row, column][:, None], offsets[n, :, row, column]], dim=1), image[n]
        kept = batched_nms(found[:, :4], found[:, 4], of, 0.5)
        return found[kept], of[kept]

    def _level(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        offsets, scores = self._p(_normal(pictures))
        return offsets, scores[:, 1]

    def _second(self, searched: _Searched, boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """R-Net: the squares that it takes for faces, moved by its regression."""
        boxes, image, offsets, scores = self._shown(self._r, searched, boxes, image, 24)
        passed = scores[:, 1] > THRESHOLDS[1]
        boxes, image, offsets, score = boxes[passed], image[passed], offsets[passed], scores[passed, 1]
        kept = batched_nms(boxes, score, image, 0.7)
        kept = kept[_foremost(_width(boxes[kept]) * score[kept], image[kept], _MOST_REFINED)]
        return _squared(_moved(boxes[kept], offsets[kept])), image[kept]

    def _third(self, searched: _Searched, boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """O-Net: boxes with probabilities (n, 5), landmarks (n, 5, 2), frames (n,)."""
        boxes, image, offsets, points, scores = self._shown(self._o, searched, boxes, image, 48)
        passed = scores[:, 1] > THRESHOLDS[2]
        boxes, image, score = boxes[passed], image[passed], scores[passed, 1:]
        points = _landmarks(boxes, points[passed])
        boxes = torch.cat([_moved(boxes, offsets[passed]), score], dim=1)
        frames = [torch.nonzero(image == i)[:, 0] for i in range(len(searched.sums))]
        kept = torch.cat([which[_nms_of_smaller(boxes[which], 0.7)] for which in frames])
        kept = kept[_foremost(_width(boxes[kept]) * boxes[kept, 4], image[kept], MOST_FACES)]
        return boxes[kept], points[kept], image[kept]

    def _shown(
        self, net: torch.nn.Module, searched: _Searched, boxes: Tensor, image: Tensor, size: int
    ) -> tuple[Tensor, ...]:
        """Those boxes that lie in their picture, the frame of each, and what the network says of each."""
        parts = []
        for part in zip(torch.split(boxes, _CROPS), torch.split(image, _CROPS), strict=True):
            inside, of, crops = searched.crops(*part, size)
            parts.append((inside, of, *self._run(net, crops)))
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))

    def _run(self, net: torch.nn.Module, crops: Tensor) -> tuple[Tensor, ...]:
        if len(crops) == 0:  # which the networks do not survive
            return tuple(output[:0] for output in net(torch.zeros(1, *crops.shape[1:], device=self.device)))
        parts = [net(_normal(part)) for part in torch.split(crops, _NET_BATCH[self.device.type])]
        return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))


@dataclass(frozen=True)
class _Searched:
    """N frames of one size under search."""

    sums: Tensor
    """(N, H + 1, W + 1, 3)"""
    shrunk: float

    def crops(self, boxes: Tensor, image: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """(boxes, image, crops): crops (n, 3, size, size) float, area-resampled.

        Boxes that lie wholly outside their picture are dropped.
        """
        rows, columns = self.sums.shape[1:3]
        scale = self.shrunk
        # facenet-pytorch counts pixels from 1: the first is left of where a box begins.
        first = ((boxes[:, :2].trunc().clamp(min=1) - 1) * scale).round().long()
        last = (boxes[:, 2:].trunc() * scale).round().long()
        last = torch.minimum(last, torch.tensor([columns - 1, rows - 1], device=last.device))
        inside = (last > first).all(dim=1)
        boxes, image, first, last = boxes[inside], image[inside], first[inside], last[inside]
        left, right = cells(last[:, 0] - first[:, 0], size)
        top, bottom = cells(last[:, 1] - first[:, 1], size)
        edges = (top + first[:, 1:], bottom + first[:, 1:], left + first[:, :1], right + first[:, :1])
        return boxes, image, self.means(image, *edges)

    def means(self, image: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """(n, 3, h, w) float: picture i's means of frame image[i], between these rows (n, h) and columns (n, w)."""
        rows, columns = self.sums.shape[1:3]
        flat, row = self.sums.view(-1, 3), image[:, None] * rows

        def corners(y: Tensor, x: Tensor) -> Tensor:
            where = ((row + y) * columns)[:, :, None] + x[:, None, :]
            return flat.index_select(0, where.view(-1))

        total = corners(bottom, right) - corners(top, right) - corners(bottom, left) + corners(top, left)
        area = (bottom - top)[:, :, None] * (right - left)[:, None, :]
        return (total.view(*area.shape, 3) / area[..., None]).permute(0, 3, 1, 2)


def _cell_boxes(cell: Tensor, scale: float | Tensor) -> Tensor:
    """(n, 4) px: what P-Net's outputs in columns and rows (n, 2) have seen."""
    return torch.cat([((2 * cell + 1) / scale).floor(), ((2 * cell + CELL_PX) / scale).floor()], dim=1)


def _merged(candidates: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Squares (n, 4) of all levels' candidates (m, 9), and the frame of each."""
    kept = batched_nms(candidates[:, :4], candidates[:, 4], image, 0.7)
    kept = kept[_foremost(candidates[kept, 4], image[kept], _MOST_SQUARES)]
    boxes, image = candidates[kept], image[kept]
    sides = (boxes[:, 2:4] - boxes[:, :2]).repeat(1, 2)
    return _squared(boxes[:, :4] + boxes[:, 5:] * sides), image


def _normal(pictures: Tensor) -> Tensor:
    return ((pictures - 127.5) * 0.0078125).contiguous(memory_format=torch.channels_last)


def _cut(frame: NDArray[np.uint8], square: list[float]) -> Tensor:
    """(3, 48, 48) float: the square's part of a frame as O-Net wants it."""
    height, width, _ = frame.shape
    left, top = (min(max(int(v), 1), limit) - 1 for v, limit in zip(square[:2], (width, height), strict=True))
    right, bottom = (max(min(int(v), limit), 1) for v, limit in zip(square[2:], (width, height), strict=True))
    part = torch.from_numpy(frame[top : max(bottom, top + 1), left : max(right, left + 1)])
    part = part.permute(2, 0, 1)[None].float()
    return torch.nn.functional.interpolate(part, size=(48, 48), mode="area")[0]


def _squared(boxes: Tensor) -> Tensor:
    """Squares of the longer side about the same centres."""
    size = boxes[:, 2:4] - boxes[:, :2]
    side = size.amax(dim=1, keepdim=True)
    corner = boxes[:, :2] + size * 0.5 - side * 0.5
    return torch.cat([corner, corner + side], dim=1)


def _moved(boxes: Tensor, offsets: Tensor) -> Tensor:
    size = boxes[:, 2:4] - boxes[:, :2] + 1
    return boxes + offsets * size.repeat(1, 2)


def _landmarks(squares: Tensor, points: Tensor) -> Tensor:
    size = squares[:, None, 2:4] - squares[:, None, :2] + 1
    return size * points.view(-1, 2, 5).transpose(1, 2) + squares[:, None, :2] - 1


def _foremost(weight: Tensor, image: Tensor, most: int) -> Tensor:
    """Which to keep, in their order: of each frame the `most` of largest weight."""
    order = weight.argsort(descending=True, stable=True)
    order = order[image[order].argsort(stable=True)]
    counts = image.bincount()
    rank = torch.arange(len(weight), device=weight.device) - (counts.cumsum(0) - counts)[image[order]]
    return order[rank < most].sort().values


def _width(boxes: Tensor) -> Tensor:
    return boxes[:, 2] - boxes[:, 0]


def _nms_of_smaller(boxes: Tensor, threshold: float) -> Tensor:
    """What is kept, best first: overlap is measured against the smaller box, which drops a box inside another."""
    order = boxes[:, 4].argsort(descending=True, stable=True)
    sorted_boxes = boxes[order]
    first = torch.maximum(sorted_boxes[:, None, :2], sorted_boxes[None, :, :2])
    last = torch.minimum(sorted_boxes[:, None, 2:4], sorted_boxes[None, :, 2:4])
    common = (last - first + 1).clamp(min=0).prod(dim=2)
    area = (sorted_boxes[:, 2:4] - sorted_boxes[:, :2] + 1).prod(dim=1)
    clash = common / torch.minimum(area[:, None], area[None, :]) > threshold
    clash_rows = clash.cpu().numpy()
    alive = np.ones(len(boxes), dtype=bool)
    for i in range(len(boxes)):
        if alive[i]:
            alive[i + 1 :] &= ~clash_rows[i, i + 1 :]
    return order[torch.from_numpy(alive).to(order.device)]


def _as_faces(boxes: Tensor, points: Tensor) -> Faces:
    flat = boxes.double().numpy()
    return Faces(flat[:, :4], flat[:, 4], points.double().numpy())
