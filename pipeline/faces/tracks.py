"""Face tracks: what was seen in the frames that were looked at, linked to persons, and where each is at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.faces.mtcnn import Faces

_MAX_SHIFT = 0.7  # between two looks a face moves by less than this part of its own side, or it is another person
_MAX_SCALE = 1.8
_MAX_GAP_S = 2.0  # a track that was not seen for longer is over
_STIFFNESS = 0.4
"""Against bending the parabola: nearly nothing where it has looks on both sides, a line at a track's ends."""
_BIAS_S = 2.0  # over so much time before and after is the boxes' bias averaged
_BLOCK = 256


@dataclass(frozen=True)
class Look:
    """The faces of one frame; `scene` counts the cuts before it."""

    time_s: float
    faces: Faces
    scene: int = 0
    bias: NDArray[np.float64] | None = None
    """(n, 4) by how much the boxes lie beside MTCNN's, in parts of the side; to be averaged along a track. nan: not"""


@dataclass(frozen=True)
class Track:
    """One person: K looks at its face, in order of time."""

    times_s: NDArray[np.float64]
    """(K,)"""
    faces: Faces
    """One a look."""
    unbroken: NDArray[np.bool_]
    """(K - 1,) whether the face was seen all the way from each look to the next: no look between them missed it."""

    @property
    def weight(self) -> float:
        """Seconds seen times mean side times probability: the most persistent, largest face has the most."""
        sides = self.faces.sides * self.faces.probabilities
        spans = np.diff(self.times_s) * self.unbroken
        return float((spans * (sides[1:] + sides[:-1]) / 2).sum() + 1e-3 * sides.mean())

    def seen_at(self, times_s: NDArray[np.float64], *, tolerance_s: float = 1e-3) -> NDArray[np.bool_]:
        """(T,) whether the face was seen at each time, or within `tolerance_s` of it."""
        right = np.searchsorted(self.times_s, times_s)
        inside = np.zeros(len(times_s), dtype=bool)
        between = (right > 0) & (right < len(self.times_s))
        inside[between] = self.unbroken[right[between] - 1]
        nearest = np.abs(times_s[:, None] - self.times_s[None, :]).min(axis=1)
        return np.asarray(inside | (nearest <= tolerance_s))

    def at(self, times_s: NDArray[np.float64], *, smooth_s: float = 0.0) -> Faces:
        """The face at each time: interpolated between looks, held beyond the first and last.

        With smooth_s, a parabola is fitted around each time instead, which has no lag: a face that moves, or turns
        back, stays where it is, the detector's trembling is averaged away.
        """
        faces = self.faces
        flat = np.concatenate([faces.boxes, faces.landmarks.reshape(-1, 10), faces.probabilities[:, None]], axis=1)
        if smooth_s and self.times_s[-1] - self.times_s[0] > smooth_s:
            values = _smoothed(self.times_s, flat, np.clip(times_s, self.times_s[0], self.times_s[-1]), smooth_s)
        else:
            values = _interpolated(self.times_s, flat, times_s)
        return Faces(values[:, :4], values[:, 14].clip(0, 1), values[:, 4:14].reshape(-1, 5, 2))


def link_tracks(looks: Sequence[Look]) -> list[Track]:
    """The tracks in `looks` (in order of time), in the order of their first look.

    A face continues the track whose last box is nearest, relative to the face's size, if it is near enough, of like
    size and in the same scene; else it begins a new one.
    """
    tracks: list[list[tuple[int, int]]] = []
    for n, look in enumerate(looks):
        open_tracks = [
            k
            for k, track in enumerate(tracks)
            if look.time_s - looks[track[-1][0]].time_s <= _MAX_GAP_S and look.scene == looks[track[-1][0]].scene
        ]
        last = joined([looks[tracks[k][-1][0]].faces.take([tracks[k][-1][1]]) for k in open_tracks])
        pairs = {j: open_tracks[i] for i, j in matched_faces(last, look.faces)}
        for j in range(len(look.faces)):
            if j in pairs:
                tracks[pairs[j]].append((n, j))
            else:
                tracks.append([(n, j)])
    return [_track(looks, nodes) for nodes in tracks]


def matched_faces(left: Faces, right: Faces, *, shift: float = _MAX_SHIFT) -> list[tuple[int, int]]:
    """(i, j): face i of the left and face j of the right are one person's, nearest first, within `shift` sides."""
    if len(left) == 0 or len(right) == 0:
        return []
    sides = [faces.sides.clip(min=1e-6) for faces in (left, right)]
    centres = [(faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2 for faces in (left, right)]
    larger = np.maximum(sides[0][:, None], sides[1][None, :])
    distance = np.linalg.norm(centres[0][:, None] - centres[1][None, :], axis=2) / larger
    distance[larger / np.minimum(sides[0][:, None], sides[1][None, :]) > _MAX_SCALE] = np.inf
    near = np.flatnonzero((distance < shift) & np.isfinite(distance))
    pairs: list[tuple[int, int]] = []
    free: list[set[int]] = [set(range(n)) for n in distance.shape]
    for at in near[np.argsort(distance.flat[near], kind="stable")]:
        i, j = divmod(int(at), distance.shape[1])
        if i in free[0] and j in free[1]:
            pairs.append((i, j))
            free[0].remove(i)
            free[1].remove(j)
    return pairs


def joined(faces: list[Faces]) -> Faces:
    """One frame's faces of several lists, in their order."""
    if not faces:
        return Faces(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2)))
    fields = ("boxes", "probabilities", "landmarks")
    return Faces(*(np.concatenate([getattr(one, name) for one in faces]) for name in fields))


def _track(looks: Sequence[Look], nodes: list[tuple[int, int]]) -> Track:
    faces = joined([looks[n].faces.take([j]) for n, j in nodes])
    numbers = np.array([n for n, _ in nodes])
    times = np.array([looks[n].time_s for n in numbers])
    biases = [looks[n].bias for n in numbers]
    bias = np.stack([np.zeros(4) if b is None else b[j] for b, (_, j) in zip(biases, nodes, strict=True)])
    boxes = faces.boxes - np.where(np.isnan(bias), 0, _averaged(times, bias)) * faces.sides[:, None]
    return Track(times, replace(faces, boxes=boxes), np.diff(numbers) == 1)


def _averaged(times_s: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, columns): the mean of all values within _BIAS_S of each time; nan is none."""
    there = np.stack([~np.isnan(values), np.nan_to_num(values)])
    sums = np.concatenate([np.zeros((2, 1, values.shape[1])), there.cumsum(axis=1)], axis=1)
    first = np.searchsorted(times_s, times_s - _BIAS_S)
    behind = np.searchsorted(times_s, times_s + _BIAS_S, side="right")
    count, total = sums[:, behind] - sums[:, first]
    return np.asarray(total / np.maximum(count, 1))


def _interpolated(
    known_s: NDArray[np.float64], values: NDArray[np.float64], times_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.stack([np.interp(times_s, known_s, column) for column in values.T], axis=1)


def _smoothed(
    known_s: NDArray[np.float64], values: NDArray[np.float64], times_s: NDArray[np.float64], width_s: float
) -> NDArray[np.float64]:
    """(len(times_s), columns): at each time the value of a parabola fitted to what is around it, with Gaussian weights.

    The looks are not evenly spaced: interpolated to even steps first, each stretch of time counts the same.
    """
    grid = np.linspace(known_s[0], known_s[-1], max(5, int((known_s[-1] - known_s[0]) / width_s * 4) + 1))
    even = _interpolated(known_s, values, grid)
    found = np.empty((len(times_s), values.shape[1]))
    for first in range(0, len(times_s), _BLOCK):
        times = times_s[first : first + _BLOCK]
        reach = max(4 * width_s, 4 * float(grid[1] - grid[0]))
        near = slice(*np.searchsorted(grid, [times.min() - reach, times.max() + reach]))
        away = (grid[None, near] - times[:, None]) / width_s
        powers = np.stack([np.ones_like(away), away, away**2], axis=2)
        weighted = powers * np.exp(-0.5 * away**2)[:, :, None]
        normal = weighted.transpose(0, 2, 1) @ powers
        normal[:, 2, 2] += _STIFFNESS * normal[:, 0, 0]
        # The fitted value at `away` 0 is the constant term of each least-squares problem.
        terms = np.linalg.solve(normal, weighted.transpose(0, 2, 1) @ even[near])
        found[first : first + len(times)] = terms[:, 0]
    return found
