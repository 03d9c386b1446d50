"""When a clip is fake: how well found segments meet the labelled ones, as LAV-DF and AV-Deepfake1M measure it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.statistics.metrics import Floats, UndefinedMetricError

Segments = Sequence[tuple[float, float]]
Proposals = Sequence[tuple[float, float, float]]
"""(start, end, confidence)"""
IOUS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


def overlaps(found: ArrayLike, true: ArrayLike) -> Floats:
    """(found, true) intersection over union; found: (n, 2) starts and ends, true: (m, 2)."""
    a, b = (np.asarray(side, np.float64).reshape(-1, 2) for side in (found, true))
    both = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
    both = both.clip(min=0)
    union = np.diff(a)[:, 0][:, None] + np.diff(b)[:, 0][None, :] - both
    return np.asarray(np.divide(both, union, out=np.zeros_like(both), where=union > 0))


def average_precision_at(found: Mapping[str, Proposals], true: Mapping[str, Segments], iou: float) -> float:
    """The area under precision against recall of all clips' proposals together, the most confident first.

    A proposal is right if it overlaps a segment by more than `iou` that none more confident has met. Precision is the
    best at that recall or beyond. true: of every clip, a real one's empty. Raises UndefinedMetricError without any.
    """
    total = _count(true)
    confidences, right = [], []
    for clip, segments in true.items():
        ordered = _ordered(found.get(clip, ()))
        confidences.append(ordered[:, 2])
        right.append(_met(ordered, segments, iou) >= 0)
    confidence, hit = np.concatenate(confidences), np.concatenate(right)
    hits = np.cumsum(hit[np.argsort(-confidence, kind="stable")])
    precision = hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(hits, prepend=0) * best).sum() / total)


def average_recall_at(found: Mapping[str, Proposals], true: Mapping[str, Segments], most: int) -> float:
    """The share of segments that a clip's `most` most confident proposals meet, averaged over IOUS."""
    total, met = _count(true), 0
    for clip, segments in true.items():
        ordered = _ordered(found.get(clip, ()))[:most]
        met += sum(int((_met(ordered, segments, iou) >= 0).sum()) for iou in IOUS)
    return met / total / len(IOUS)


def _count(true: Mapping[str, Segments]) -> int:
    total = sum(len(segments) for segments in true.values())
    if not total:
        raise UndefinedMetricError("no clip has labelled fake segments")
    return total


def _ordered(proposals: Proposals) -> Floats:
    rows = np.asarray(proposals, np.float64).reshape(-1, 3)
    return rows[np.argsort(-rows[:, 2], kind="stable")]


def _met(ordered: Floats, segments: Segments, iou: float) -> NDArray[np.intp]:
    """(proposals,) the number of the segment that each is the first to meet; -1 for none."""
    free = overlaps(ordered[:, :2], segments)
    met = np.full(len(ordered), -1)
    for row in range(len(ordered)):
        if free.shape[1] and free[row].max() > iou:
            met[row] = free[row].argmax()
            free[:, met[row]] = 0
    return met
