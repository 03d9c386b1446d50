"""Of boxes that overlap, the best: non-maximum suppression, as torchvision does it, to the bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.faces.sums import Floats, Ints

_APART = 1000
"""torchvision moves the frames' boxes apart where there are no more, which rounds them."""


def suppressed(boxes: Floats, scores: Floats, image: Ints, threshold: float) -> Ints:
    """Which of the boxes (n, 4) to keep, best first: none that overlaps a better one of its frame by more.

    scores, image: (n,), image the frame of each.
    """
    if 0 < len(boxes) <= _APART:
        boxes = boxes + (image.astype(np.float32) * (boxes.max() + 1))[:, None]
    order = np.argsort(-scores, kind="stable")
    kept = np.zeros(len(boxes), dtype=bool)
    for frame in np.unique(image):
        of_frame = order[image[order] == frame]
        kept[of_frame[_alone(boxes[of_frame], threshold)]] = True
    return np.asarray(order[kept[order]])


def _alone(boxes: Floats, threshold: float) -> NDArray[np.int64]:
    """Of boxes of one frame, best first, those to keep."""
    (left, top, right, bottom), numbers = boxes.T, np.arange(len(boxes))
    areas = (right - left) * (bottom - top)
    kept = []
    while len(numbers):
        first, numbers = numbers[0], numbers[1:]
        kept.append(first)
        width = np.minimum(right[first], right[numbers]) - np.maximum(left[first], left[numbers])
        height = np.minimum(bottom[first], bottom[numbers]) - np.maximum(top[first], top[numbers])
        common = width.clip(0) * height.clip(0)
        with np.errstate(invalid="ignore"):  # of two boxes without an area
            overlap = common / (areas[first] + areas[numbers] - common)
        numbers = numbers[~(overlap > threshold)]
    return np.array(kept, dtype=np.int64)
