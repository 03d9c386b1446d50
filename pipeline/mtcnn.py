"""facenet-pytorch's MTCNN (P-, R- and O-Net, weights as they are) driven in batches over frames.

The cascade is facenet-pytorch's, step for step: the same pyramid, the same area resampling, the same thresholds and
suppression. Faster is what stands around the networks: one integral image per frame gives every level of the pyramid
and every crop by differences of four sums, and candidates of all frames go through R- and O-Net together. The networks
run channels-last, which on the CPU is faster than onnxruntime for all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import facenet_pytorch
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms

THRESHOLDS = (0.6, 0.7, 0.7)
"""facenet-pytorch's defaults for the three networks."""
DEFAULT_FACE_PX = 20
"""The smallest face that facenet-pytorch looks for by default."""
_FACTOR = 0.709
CELL_PX = 12
"""P-Net sees a square of so many pixels."""
_PASS_PIXELS = {"cpu": 40_000, "cuda": 16_000_000}
"""Pixels of a pyramid's level in one pass of P-Net: on the CPU what stays in the cache."""
_BATCH_PIXELS = 6_000_000
"""Pixels of frames whose integral images (12 bytes a pixel) are held at once."""
_NET_BATCH = 512
_CONTEXT = 1.07
"""What R-Net hands to O-Net is wider than the box that comes out; so a known box is widened by as much."""


_LEAST = 0.35
"""Around a known face the first level looked at is the one for faces of at least this part of its size ..."""
_NEAR_LEVELS = 3
"""... and so many in all: in those the known one shows."""
_NEAR = 6.2
"""Side of the square searched around a known face, in parts of the face's size that the first level is for."""
_NEAR_PX = 224
"""To which such a square is brought: the known face keeps 72 to 102 pixels, more than O-Net's 48."""


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
        levels = [
            (int(whole[0] * scale + 1), int(whole[1] * scale + 1), torch.tensor([scale])) for scale in scales[:-1]
        ]
        step = max(1, _BATCH_PIXELS // (height * width))
        found: list[Faces] = []
        for i in range(0, n_frames, step):
            batch = torch.from_numpy(np.ascontiguousarray(frames[i : i + step])).to(self.device)
            found += self._detect(batch, torch.tensor([shrunk]), levels)
        return found

    @torch.inference_mode()
    def detect_near(
        self, frames: Sequence[NDArray[np.uint8]], boxes: NDArray[np.float64], *, shrunk: float = 1.0
    ) -> list[Faces]:
        """The faces around each of `boxes` (n, 4) that are about as large, one box per frame; frames may repeat.

        The cascade runs over a square of two to three times the box's side, and over the three levels of the pyramid
        in which such a face shows. All squares are brought to one size, and so searched together.
        """
        if len(boxes) == 0:
            return []
        first_px = self.min_face_px * _FACTOR ** np.floor(
            np.log(_LEAST * (boxes[:, 2:] - boxes[:, :2]).max(axis=1).clip(min=1) / self.min_face_px) / np.log(_FACTOR)
        )
        first_px = np.maximum(first_px, self.min_face_px)
        sides = np.maximum(np.rint(_NEAR * first_px * shrunk), 2).astype(int)
        corners = np.rint((boxes[:, :2] + boxes[:, 2:]) / 2 * shrunk - sides[:, None] / 2).astype(int)
        regions = [
            _region(frame, (int(left), int(top)), int(side))
            for frame, (left, top), side in zip(frames, corners, sides, strict=True)
        ]
        levels = [
            (size, size, torch.from_numpy(CELL_PX / first_px * _FACTOR**k).float())
            for k, size in enumerate(int(_NEAR * CELL_PX * _FACTOR**k + 1) for k in range(_NEAR_LEVELS))
        ]
        scale = torch.from_numpy(_NEAR_PX / sides * shrunk).float()
        height, width, _ = frames[0].shape
        inside = np.concatenate([-corners, np.array([width, height]) - corners], axis=1) * (_NEAR_PX / sides)[:, None]
        bounds = torch.from_numpy(inside.round().clip(0, _NEAR_PX)).long()
        found = self._detect(torch.from_numpy(np.stack(regions)).to(self.device), scale, levels, bounds)
        return [faces.shifted(corner / shrunk) for faces, corner in zip(found, corners, strict=True)]

    @torch.inference_mode()
    def refine(self, frames: Sequence[NDArray[np.uint8]], boxes: NDArray[np.float64], *, shrunk: float = 1.0) -> Faces:
        """O-Net alone, one square per frame: the faces that it sees in `boxes` (n, 4), with their probabilities.

        No pyramid is built and no candidate is dropped: a probability below the last of THRESHOLDS says that there
        is no face at that place. The frames must be of one size, they may repeat.
        """
        if len(boxes) == 0:
            return _as_faces(torch.zeros(0, 5), torch.zeros(0, 5, 2))
        squares = _widened(_squared(torch.from_numpy(boxes).float()), _CONTEXT)
        parts = zip(frames, (squares * shrunk).tolist(), strict=True)
        crops = torch.stack([_cut(frame, square) for frame, square in parts])
        offsets, points, scores = self._run(self._o, crops.to(self.device))
        squares = squares.to(self.device)
        return _as_faces(
            torch.cat([_moved(squares, offsets), scores[:, 1:]], dim=1).cpu(), _landmarks(squares, points).cpu()
        )

    def _detect(
        self, frames: Tensor, shrunk: Tensor, levels: list[tuple[int, int, Tensor]], bounds: Tensor | None = None
    ) -> list[Faces]:
        """shrunk: (N,) or (1,); levels: (height, width, scale (N,) or (1,)) of each of the pyramid's pictures.

        bounds: (N, 4) px, the part of each frame that is the picture's; None: all of it.
        """
        if bounds is None:
            bounds = torch.tensor([[0, 0, frames.shape[2], frames.shape[1]]])
        shrunk, bounds = shrunk.to(self.device).expand(len(frames)), bounds.to(self.device).expand(len(frames), 4)
        searched = _Searched(_integral(frames), shrunk, bounds)
        boxes, image = self._candidates(searched.sums, levels)
        boxes, image = self._second(searched, boxes, image)
        boxes, points, image = self._third(searched, boxes, image)
        boxes, points, image = boxes.cpu(), points.cpu(), image.cpu()
        return [_as_faces(boxes[image == i], points[image == i]) for i in range(len(frames))]

    def _candidates(self, sums: Tensor, levels: list[tuple[int, int, Tensor]]) -> tuple[Tensor, Tensor]:
        """P-Net over the pyramid: squares (n, 4) and the frame of each (n,)."""
        found: list[Tensor] = [torch.zeros(0, 9, device=self.device)]
        images: list[Tensor] = [torch.zeros(0, dtype=torch.long, device=self.device)]
        for height, width, scales in levels:
            step = max(1, _PASS_PIXELS[self.device.type] // (height * width))
            level = [self._level(sums[i : i + step], (height, width)) for i in range(0, len(sums), step)]
            offsets, score = (torch.cat(parts) for parts in zip(*level, strict=True))
            image, row, column = torch.nonzero(score >= THRESHOLDS[0], as_tuple=True)
            scale = scales.to(self.device).expand(len(sums))[image][:, None]
            cell = torch.stack([column, row], dim=1).float()
            box = [((2 * cell + 1) / scale).floor(), ((2 * cell + CELL_PX) / scale).floor()]
            one = torch.cat([*box, score[image, row, column][:, None], offsets[image, :, row, column]], dim=1)
            kept = batched_nms(one[:, :4], one[:, 4], image, 0.5)
            found.append(one[kept])
            images.append(image[kept])
        boxes, image = torch.cat(found), torch.cat(images)
        kept = batched_nms(boxes[:, :4], boxes[:, 4], image, 0.7)
        boxes, image = boxes[kept], image[kept]
        sides = (boxes[:, 2:4] - boxes[:, :2]).repeat(1, 2)
        return _squared(boxes[:, :4] + boxes[:, 5:] * sides), image

    def _level(self, sums: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        offsets, scores = self._p(_normal(_resized(sums, size)))
        return offsets, scores[:, 1]

    def _second(self, searched: _Searched, boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """R-Net: the squares that it takes for faces, moved by its regression."""
        boxes, image, crops = searched.crops(boxes, image, 24)
        offsets, scores = self._run(self._r, crops)
        passed = scores[:, 1] > THRESHOLDS[1]
        boxes, image, offsets, score = boxes[passed], image[passed], offsets[passed], scores[passed, 1]
        kept = batched_nms(boxes, score, image, 0.7)
        return _squared(_moved(boxes[kept], offsets[kept])), image[kept]

    def _third(self, searched: _Searched, boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """O-Net: boxes with probabilities (n, 5), landmarks (n, 5, 2), frames (n,)."""
        boxes, image, crops = searched.crops(boxes, image, 48)
        offsets, points, scores = self._run(self._o, crops)
        passed = scores[:, 1] > THRESHOLDS[2]
        boxes, image, score = boxes[passed], image[passed], scores[passed, 1:]
        points = _landmarks(boxes, points[passed])
        boxes = torch.cat([_moved(boxes, offsets[passed]), score], dim=1)
        kept = _nms_of_smaller(boxes, image, 0.7)
        return boxes[kept], points[kept], image[kept]

    def _run(self, net: torch.nn.Module, crops: Tensor) -> tuple[Tensor, ...]:
        if len(crops) == 0:  # which the networks do not survive
            return tuple(output[:0] for output in net(torch.zeros(1, *crops.shape[1:], device=self.device)))
        parts = [net(_normal(part)) for part in torch.split(crops, _NET_BATCH)]
        return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))


@dataclass(frozen=True)
class _Searched:
    """N frames of one size under search."""

    sums: Tensor
    """(N, H + 1, W + 1, 3)"""
    shrunk: Tensor
    """(N,)"""
    bounds: Tensor
    """(N, 4) px: the picture's part of each; what reaches beyond is cut off, as facenet-pytorch does it"""

    def crops(self, boxes: Tensor, image: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """(boxes, image, crops): crops (n, 3, size, size) float, area-resampled.

        Boxes that lie wholly outside their picture are dropped.
        """
        rows, columns = self.sums.shape[1:3]
        scale = self.shrunk[image][:, None]
        # facenet-pytorch counts pixels from 1: the first is left of where a box begins.
        first = ((boxes[:, :2].trunc().clamp(min=1) - 1) * scale).round().long()
        last = (boxes[:, 2:].trunc() * scale).round().long()
        bounds = self.bounds[image]
        first, last = torch.maximum(first, bounds[:, :2]), torch.minimum(last, bounds[:, 2:])
        inside = (last > first).all(dim=1)
        boxes, image, first, last = boxes[inside], image[inside], first[inside], last[inside]
        left, right = _cells(last[:, 0] - first[:, 0], size)
        top, bottom = _cells(last[:, 1] - first[:, 1], size)
        area = (bottom - top)[:, :, None] * (right - left)[:, None, :]
        row = image[:, None] * rows + first[:, 1:]
        flat = self.sums.view(-1, 3)

        def corners(y: Tensor, x: Tensor) -> Tensor:
            where = ((row + y) * columns)[:, :, None] + (x + first[:, :1])[:, None, :]
            return flat.index_select(0, where.view(-1))

        total = corners(bottom, right) - corners(top, right) - corners(bottom, left) + corners(top, left)
        return boxes, image, (total.view(-1, size, size, 3) / area[..., None]).permute(0, 3, 1, 2)


def _normal(pictures: Tensor) -> Tensor:
    return ((pictures - 127.5) * 0.0078125).contiguous(memory_format=torch.channels_last)


def _integral(frames: Tensor) -> Tensor:
    """(N, H + 1, W + 1, 3) int32 sums of all pixels above and to the left of (N, H, W, 3) uint8.

    A sum may overflow: differences of sums are right modulo 2**32, and a crop's total is far below.
    """
    n_frames, height, width, channels = frames.shape
    sums = torch.zeros(n_frames, height + 1, width + 1, channels, dtype=torch.int32, device=frames.device)
    torch.cumsum(frames.cumsum(1, dtype=torch.int32), 2, dtype=torch.int32, out=sums[:, 1:, 1:])
    return sums


def _resized(sums: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 3, *size) float: what `interpolate(mode="area")` makes of the whole frames."""
    lengths = torch.tensor([sums.shape[1] - 1, sums.shape[2] - 1], device=sums.device)
    top, bottom = (edge[0] for edge in _cells(lengths[:1], size[0]))
    left, right = (edge[0] for edge in _cells(lengths[1:], size[1]))
    bands = sums.index_select(1, bottom) - sums.index_select(1, top)
    total = bands.index_select(2, right) - bands.index_select(2, left)
    area = (bottom - top)[:, None, None] * (right - left)[:, None]
    return (total / area).permute(0, 3, 1, 2)


def _cells(lengths: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(first, end), (n, size) each: `size` cells of every length; they overlap by one where it does not divide."""
    cell = torch.arange(size, device=lengths.device)
    first = cell * lengths[:, None] // size
    end = ((cell + 1) * lengths[:, None] + size - 1) // size
    return first, end


def _region(frame: NDArray[np.uint8], corner: tuple[int, int], side: int) -> NDArray[np.uint8]:
    """(_NEAR_PX, _NEAR_PX, 3): a square of the frame, area-resampled; beyond the frame it is grey."""
    left, top = corner
    square = frame[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    if square.shape[:2] != (side, side):
        whole = np.full((side, side, 3), 127, np.uint8)
        down, right = min(max(-top, 0), side), min(max(-left, 0), side)
        whole[down : down + square.shape[0], right : right + square.shape[1]] = square
        square = whole
    return np.asarray(Image.fromarray(square).resize((_NEAR_PX, _NEAR_PX), Image.Resampling.BOX))


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


def _widened(squares: Tensor, factor: float) -> Tensor:
    extra = (squares[:, 2:] - squares[:, :2]) * (factor - 1) / 2
    return torch.cat([squares[:, :2] - extra, squares[:, 2:] + extra], dim=1)


def _moved(boxes: Tensor, offsets: Tensor) -> Tensor:
    size = boxes[:, 2:4] - boxes[:, :2] + 1
    return boxes + offsets * size.repeat(1, 2)


def _landmarks(squares: Tensor, points: Tensor) -> Tensor:
    size = squares[:, None, 2:4] - squares[:, None, :2] + 1
    return size * points.view(-1, 2, 5).transpose(1, 2) + squares[:, None, :2] - 1


def _nms_of_smaller(boxes: Tensor, image: Tensor, threshold: float) -> Tensor:
    """What is kept, best first: overlap is measured against the smaller box, which drops a box inside another."""
    order = boxes[:, 4].argsort(descending=True, stable=True)
    sorted_boxes, sorted_image = boxes[order], image[order]
    first = torch.maximum(sorted_boxes[:, None, :2], sorted_boxes[None, :, :2])
    last = torch.minimum(sorted_boxes[:, None, 2:4], sorted_boxes[None, :, 2:4])
    common = (last - first + 1).clamp(min=0).prod(dim=2)
    area = (sorted_boxes[:, 2:4] - sorted_boxes[:, :2] + 1).prod(dim=1)
    clash = common / torch.minimum(area[:, None], area[None, :]) > threshold
    clash &= sorted_image[:, None] == sorted_image[None, :]
    clash_rows = clash.cpu().numpy()
    alive = np.ones(len(boxes), dtype=bool)
    for i in range(len(boxes)):
        if alive[i]:
            alive[i + 1 :] &= ~clash_rows[i, i + 1 :]
    return order[torch.from_numpy(alive).to(order.device)]


def _as_faces(boxes: Tensor, points: Tensor) -> Faces:
    flat = boxes.double().numpy()
    return Faces(flat[:, :4], flat[:, 4], points.double().numpy())
