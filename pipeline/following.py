"""Where the faces are in a run of frames, looking at a few of them only.

MTCNN searches the whole picture in key frames. Between two key frames that show the same faces, O-Net alone looks at
the frame in the middle, where the faces should be if they moved evenly. Where it sees them there, what lies between is
interpolated; where they moved unevenly, both halves are looked at in the same way; where a face is missing, the
picture is searched. So a still head costs little, a fast one more, and a face that comes or goes is found to the frame.
A scene cut ends everything: the frames on both of its sides are key frames, and nothing is followed across.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.mtcnn import THRESHOLDS, Faces, Mtcnn
from pipeline.tracks import Look, matched_faces

KEY_S = 0.64
"""At most so much time between key frames."""
WHOLE_S = 2.5
"""So often they are searched for faces of any size, the others for faces of about the sizes that are known."""
_LIKE = 0.4
"""Of the smallest known face: smaller ones are not looked for between whole searches."""
_EVEN_IOU = 0.9
"""A face moved evenly when O-Net's box and the interpolated one overlap by this."""
_LOST_IOU = 0.5
"""O-Net's box is another face's when it overlaps the interpolated one by less."""
_CUT = 0.5
"""A cut changes the picture by at least this part of its contrast ..."""
_CUT_RATIO = 3.0
"""... and so many times more than is usual around it."""
_CUT_AROUND = 6
_THUMBNAIL = 24


@dataclass
class _Chunk:
    times_s: NDArray[np.float64]
    frames: NDArray[np.uint8]
    scenes: NDArray[np.int64]
    known: dict[int, _Seen]


@dataclass(frozen=True)
class _Seen:
    """The faces of one frame, and by how much O-Net alone places them elsewhere, in parts of the box's side.

    The whole cascade and O-Net alone differ by a few percent, the same way for minutes in a quiet clip. So what O-Net
    says in the middle is corrected by what it says at both ends.
    """

    faces: Faces
    bias: NDArray[np.float64]
    """(n, 4)"""


class Follower:
    """Takes a clip's frames in order, chunk by chunk; `looks` is what was seen, in order of time.

    Memory is that of one chunk, whatever the length of the clip.
    """

    def __init__(self, mtcnn: Mtcnn, *, min_probability: float, shrunk: float = 1.0) -> None:
        """shrunk: the frames' size as a part of the picture's; boxes are the picture's."""
        self._mtcnn = mtcnn
        self._min_probability = min_probability
        self._shrunk = shrunk
        self._last: tuple[float, NDArray[np.uint8], _Seen] | None = None
        self._changes: NDArray[np.float64] = np.zeros(0)
        self._scene = 0
        self._searched_s, self._searched_scene = -np.inf, -1
        self.looks: list[Look] = []

    def add(self, times_s: NDArray[np.float64], frames: NDArray[np.uint8]) -> None:
        """times_s: (T,) increasing, after all earlier ones; frames: (T, H, W, 3) uint8 RGB, of one size."""
        if len(frames) == 0:
            return
        chunk = self._begin(times_s, frames)
        self._search_keys(chunk)
        keys = sorted(chunk.known)
        spans = [(a, b) for a, b in pairwise(keys) if chunk.scenes[a] == chunk.scenes[b]]
        while spans := [(a, b) for a, b in spans if b - a > 1]:
            spans = self._halve(chunk, spans)
        done = 0 if self._last is None else 1
        self.looks += [
            Look(float(chunk.times_s[i]), seen.faces, int(chunk.scenes[i]))
            for i, seen in sorted(chunk.known.items())
            if i >= done
        ]
        end = len(chunk.frames) - 1
        self._last = float(chunk.times_s[end]), chunk.frames[end].copy(), chunk.known[end]
        self._scene = int(chunk.scenes[end])

    def _begin(self, times_s: NDArray[np.float64], frames: NDArray[np.uint8]) -> _Chunk:
        """The chunk with the last frame of the one before in front, so that faces are followed from there."""
        known = {}
        if self._last is not None:
            time, frame, known[0] = self._last
            times_s, frames = np.concatenate([[time], times_s]), np.concatenate([frame[None], frames])
        changes = _changes(frames)
        before = self._changes[-_CUT_AROUND:]
        cuts = _cuts(np.concatenate([before, changes]))[len(before) :]
        self._changes = changes
        scenes = self._scene + np.concatenate([[0], np.cumsum(cuts)]).astype(np.int64)
        return _Chunk(times_s, frames, scenes, known)

    def _search_keys(self, chunk: _Chunk) -> None:
        """Searches the key frames: some for faces of any size, those between for faces like the ones found there."""
        keys = _key_frames(chunk)
        whole: list[int] = []
        others: list[int] = []
        for key in keys:
            new = (chunk.times_s[key] - self._searched_s >= WHOLE_S - 1e-6) | (
                chunk.scenes[key] != self._searched_scene
            )
            if new:
                self._searched_s, self._searched_scene = float(chunk.times_s[key]), int(chunk.scenes[key])
            (whole if new else others).append(key)
        self._search(chunk, whole)
        known = [chunk.known[key].faces for key in sorted(chunk.known)]
        sides = [_sides(faces.above(self._min_probability)).min(initial=np.inf) for faces in known]
        smallest = min(sides, default=np.inf)
        # Where no face is known, one of any size may come.
        self._search(chunk, others, from_px=_LIKE * smallest if np.isfinite(smallest) else 0.0)

    def _search(self, chunk: _Chunk, wanted: list[int], *, from_px: float = 0.0) -> None:
        """Looks for faces (of at least from_px) in the whole of these frames."""
        if not wanted:
            return
        found = self._mtcnn.detect(chunk.frames[wanted], shrunk=self._shrunk, from_px=from_px)
        alone = self._refine(chunk, wanted, found)
        for i, faces, again in zip(wanted, found, alone, strict=True):
            chunk.known[i] = _Seen(faces, (again.boxes - faces.boxes) / _sides(faces))

    def _refine(self, chunk: _Chunk, where: list[int], expected: list[Faces]) -> list[Faces]:
        """What O-Net alone makes of the expected faces of these frames."""
        places = [(chunk.frames[i], box) for i, faces in zip(where, expected, strict=True) for box in faces.boxes]
        boxes = np.stack([box for _, box in places]) if places else np.zeros((0, 4))
        found = self._mtcnn.refine([frame for frame, _ in places], boxes, shrunk=self._shrunk)
        ends = np.cumsum([len(faces) for faces in expected])
        return [found.take(range(end - len(faces), end)) for end, faces in zip(ends, expected, strict=True)]

    def _halve(self, chunk: _Chunk, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Looks at the middle of every span; the spans that must be halved again."""
        expected: dict[tuple[int, int], _Seen] = {}
        unclear: list[tuple[int, int]] = []
        for a, b in spans:
            left, right = chunk.known[a], chunk.known[b]
            pairs = matched_faces(left.faces, right.faces)
            i, j = ([pair[side] for pair in pairs] for side in (0, 1))
            if self._certain_besides(left.faces, i) or self._certain_besides(right.faces, j):
                unclear.append((a, b))
            elif pairs:
                times = chunk.times_s[[a, (a + b) // 2, b]]
                share = float((times[1] - times[0]) / (times[2] - times[0]))
                between = left.faces.take(i).towards(right.faces.take(j), share)
                expected[a, b] = _Seen(between, (1 - share) * left.bias[i] + share * right.bias[j])
        again: list[tuple[int, int]] = []
        found = self._refine(chunk, [(a + b) // 2 for a, b in expected], [seen.faces for seen in expected.values()])
        for (a, b), seen, alone in zip(expected, expected.values(), found, strict=True):
            faces = Faces(alone.boxes - seen.bias * _sides(seen.faces), alone.probabilities, alone.landmarks)
            overlap = iou(faces.boxes, seen.faces.boxes)
            if overlap.min() < _LOST_IOU or faces.probabilities.min() < THRESHOLDS[2]:
                unclear.append((a, b))
                continue
            chunk.known[(a + b) // 2] = _Seen(faces, seen.bias)
            if overlap.min() < _EVEN_IOU:
                again += _halves(a, b)
        self._search(chunk, [(a + b) // 2 for a, b in unclear])
        return again + [half for span in unclear for half in _halves(*span)]

    def _certain_besides(self, faces: Faces, known: list[int]) -> bool:
        """Whether there is a face, certain enough to be followed, that is not among the known."""
        others = np.delete(faces.probabilities, known)
        return bool((others >= self._min_probability).any())


def _halves(a: int, b: int) -> list[tuple[int, int]]:
    return [(a, (a + b) // 2), ((a + b) // 2, b)]


def _sides(faces: Faces) -> NDArray[np.float64]:
    return np.asarray((faces.boxes[:, 2:] - faces.boxes[:, :2]).max(axis=1, keepdims=True))


def iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) intersection over union of boxes a and b, (n, 4) each."""
    common = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(min=0).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1) for boxes in (a, b)]
    union: NDArray[np.float64] = areas[0] + areas[1] - common
    return np.asarray(common / np.maximum(union, 1e-9))


def _key_frames(chunk: _Chunk) -> list[int]:
    """Frames to search: first and last of every scene, and evenly between, KEY_S apart at most."""
    keys: set[int] = set()
    for scene in np.unique(chunk.scenes):
        inside = np.flatnonzero(chunk.scenes == scene)
        first, last = int(inside[0]), int(inside[-1])
        pieces = int(np.ceil((chunk.times_s[last] - chunk.times_s[first]) / KEY_S - 1e-6))
        keys |= {int(k) for k in np.linspace(first, last, max(pieces, 1) + 1).round()}
    return sorted(keys - set(chunk.known))


def _changes(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(T - 1,) how much each frame differs from the one before, in parts of their contrast: about 1 if unrelated."""
    rows, columns = (((np.arange(_THUMBNAIL) + 0.5) * size / _THUMBNAIL).astype(int) for size in frames.shape[1:3])
    small = frames[:, rows[:, None], columns].astype(np.float32).reshape(len(frames), -1)
    contrast = small.std(axis=1)
    return np.asarray(np.abs(np.diff(small, axis=0)).mean(axis=1) / (0.5 * (contrast[1:] + contrast[:-1]) + 5.0), float)


def _cuts(changes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) whether a scene begins after each change."""
    found = np.zeros(len(changes), dtype=bool)
    for i in np.flatnonzero(changes > _CUT):
        around = np.delete(changes[max(0, i - _CUT_AROUND) : i + _CUT_AROUND + 1], min(int(i), _CUT_AROUND))
        found[i] = len(around) == 0 or changes[i] > _CUT_RATIO * np.median(around)
    return found
