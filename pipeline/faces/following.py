"""Where the faces are in a run of frames, looking at a few of them only.

MTCNN searches the whole picture rarely, and in key frames the places where faces are known. Between two key frames
O-Net alone looks at the frame in the middle, where the faces should be if they moved evenly. Where it sees them there,
what lies between is interpolated; where they moved unevenly, or a face comes or goes, both halves are looked at in the
same way. So a still head costs little, a fast one more, and the frame in which a known face goes is found.
Faces move evenly beside what the camera does: its own movement is measured from frame to frame.
A scene cut ends everything: the frames on both of its sides are key frames, and nothing is followed across. What the
whole picture does not tell, as where two people take turns before one wall, the heads do: then it is all done again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.faces.camera import CUT_AHEAD, CUT_AROUND, camera_shifts, changes, cuts, head_changes, head_cuts
from pipeline.faces.mtcnn import MOST_FACES, THRESHOLDS, Faces, Mtcnn
from pipeline.faces.tracks import Look, joined, matched_faces

KEY_S = 0.64  # at most so much time between key frames
WHOLE_S = 2.5
"""So often the whole of a key frame is searched, the others where faces are known: new ones are found that late."""
_EVEN_IOU = 0.9  # a face moved evenly when O-Net's box and the interpolated one overlap by this
_MAX_BIAS = 0.1
"""By more of the side the two differ only where the picture cuts the face: which says nothing about other frames."""
_LOST_IOU = 0.5  # O-Net's box is another face's when it overlaps the interpolated one by less
_EDGE = 0.1  # of a face's side: what O-Net sees reaches so far beyond the box
_FILLED = 0.1  # of a face's side: when the camera moved by so much between two looks, it is no even movement


@dataclass
class _Chunk:
    times_s: NDArray[np.float64]
    frames: NDArray[np.uint8]
    scenes: NDArray[np.int64]
    known: dict[int, _Seen]
    camera: NDArray[np.float64]
    """(T, 2) px of the picture by which each frame shows what stands still beside where the first does"""

    def seen_from(self, i: int, j: int) -> _Seen:
        """What is known of frame i, at the places that it has in frame j if only the camera moved."""
        seen = self.known[i]
        return _Seen(seen.faces.shifted(self.camera[j] - self.camera[i]), seen.bias)


@dataclass(frozen=True)
class _Seen:
    """The faces of one frame as O-Net alone places them, and how far that is from where the whole cascade does.

    The two differ by a few percent of the side, the same way for minutes in a quiet clip, while the cascade's box
    trembles as much. So O-Net's box is kept, and the difference is averaged along the track.
    """

    faces: Faces
    bias: NDArray[np.float64]
    """(n, 4) in parts of the side; nan where the picture's edge cuts the face: those boxes are the cascade's own"""

    @property
    def placed(self) -> Faces:
        """The faces with the cascade's boxes."""
        return replace(self.faces, boxes=self.faces.boxes - np.nan_to_num(self.bias) * self.faces.sides[:, None])

    def take(self, which: list[int] | NDArray[np.bool_] | NDArray[np.int64]) -> _Seen:
        """The chosen ones, in the order given."""
        return _Seen(self.faces.take(which), self.bias[np.asarray(which, dtype=None if len(which) else int)])

    def towards(self, other: _Seen, share: float) -> _Seen:
        """Face by face, `share` of the way to `other`'s."""
        own = np.isnan(self.bias + other.bias)
        left, right = self._own(own), other._own(own)
        return _Seen(left.faces.towards(right.faces, share), (1 - share) * left.bias + share * right.bias)

    def _own(self, which: NDArray[np.bool_]) -> _Seen:
        """With the cascade's boxes for the chosen ones."""
        boxes = np.where(which, self.placed.boxes, self.faces.boxes)
        return _Seen(replace(self.faces, boxes=boxes), np.where(which, np.nan, self.bias))


@dataclass(frozen=True)
class _Plan:
    """What is looked for between two frames."""

    seen: _Seen
    """Where it should be"""
    both: int
    """The first so many were seen in both frames, the others in one."""


class Follower:
    """Takes a clip's frames in order, chunk by chunk; `looks` is what was seen, in order of time.

    Memory is that of one chunk, whatever the length of the clip.
    """

    def __init__(self, mtcnn: Mtcnn, *, min_probability: float, shrunk: float = 1.0) -> None:
        """shrunk: the frames' size as a part of the picture's; boxes are the picture's."""
        self._mtcnn = mtcnn
        self._min_probability = min_probability
        self._shrunk = shrunk
        self._times_s, self._frames = np.zeros(0), np.zeros((0, 1, 1, 3), np.uint8)
        self._last: _Seen | None = None
        """Of the first of these frames; None before any was followed. The others wait for what comes behind them."""
        self._changed, self._heads_changed = np.zeros(0), np.zeros(0)
        self._scene = 0
        self._searched_s, self._searched_scene = -np.inf, -1
        self.looks: list[Look] = []

    def add(self, times_s: NDArray[np.float64], frames: NDArray[np.uint8]) -> None:
        """times_s: (T,) increasing, after all earlier ones; frames: (T, H, W, 3) uint8 RGB, of one size."""
        self._times_s = np.concatenate([self._times_s, times_s])
        self._frames = np.concatenate([self._frames, frames]) if len(self._frames) else frames
        self._advance(len(self._frames) - CUT_AHEAD)

    def finish(self) -> None:
        """To be called when there are no more frames."""
        self._advance(len(self._frames))

    def _advance(self, end: int) -> None:
        """Follows through the frames before `end`."""
        done = 0 if self._last is None else 1
        if end <= done:
            return
        chunk = self._begin(end)
        before = dict(chunk.known), self._searched_s, self._searched_scene
        self._follow(chunk)
        if (cut := self._cut_at_heads(chunk)).any():
            chunk.scenes += np.concatenate([[0], np.cumsum(cut)])
            chunk.known, self._searched_s, self._searched_scene = before
            self._follow(chunk)
        self.looks += [
            Look(float(chunk.times_s[i]), seen.faces, int(chunk.scenes[i]), seen.bias)
            for i, seen in sorted(chunk.known.items())
            if i >= done
        ]
        self._last, self._scene = chunk.known[end - 1], int(chunk.scenes[end - 1])
        self._times_s, self._frames = self._times_s[end - 1 :], self._frames[end - 1 :].copy()

    def _begin(self, end: int) -> _Chunk:
        """The frames before `end`, from the last one of the chunk before on: faces are followed from there."""
        frames = self._frames[:end]
        changed = changes(self._frames)
        before = self._changed[-CUT_AROUND:]
        cut = cuts(np.concatenate([before, changed]))[len(before) :][: end - 1]
        self._changed = np.concatenate([before, changed[: end - 1]])
        scenes = self._scene + np.concatenate([[0], np.cumsum(cut)]).astype(np.int64)
        camera = np.concatenate([np.zeros((1, 2)), camera_shifts(frames).cumsum(axis=0)]) / self._shrunk
        known = {} if self._last is None else {0: self._last}
        return _Chunk(self._times_s[:end], frames, scenes, known, camera)

    def _follow(self, chunk: _Chunk) -> None:
        self._search_keys(chunk)
        spans = _spans(chunk)
        while spans := [(a, b) for a, b in spans if b - a > 1]:
            spans = self._halve(chunk, spans)
        self._fill(chunk)

    def _cut_at_heads(self, chunk: _Chunk) -> NDArray[np.bool_]:
        """(T - 1,) whether the faces that were followed from each frame to the next are other people's."""
        changed = np.full(len(chunk.frames) - 1, np.nan)
        for a, b in _spans(chunk):
            left, right = (chunk.known[i].faces for i in (a, b))
            pairs = np.array(matched_faces(left, right), int).reshape(-1, 2)
            if len(pairs):
                share = np.linspace(0, 1, b - a + 1)[:, None, None]
                boxes = (1 - share) * left.boxes[pairs[:, 0]] + share * right.boxes[pairs[:, 1]]
                changed[a:b] = head_changes(chunk.frames[a : b + 1], boxes * self._shrunk)
        end = len(changed)
        here, before = chunk.known[end].faces.boxes * self._shrunk, self._heads_changed[-CUT_AHEAD:]
        ahead = self._frames[end:] if len(here) else self._frames[:0]
        behind = head_changes(ahead, np.repeat(here[None], len(ahead), axis=0))
        self._heads_changed = np.concatenate([before, changed])
        return head_cuts(np.concatenate([before, changed, behind]))[len(before) :][:end]

    def _search_keys(self, chunk: _Chunk) -> None:
        """Searches the key frames: some as a whole, the others around the faces of the nearest that is known."""
        whole: list[int] = []
        others: list[int] = []
        for key in _key_frames(chunk):
            time, scene = float(chunk.times_s[key]), int(chunk.scenes[key])
            new = time - self._searched_s >= WHOLE_S - 1e-6 or scene != self._searched_scene
            if new:
                self._searched_s, self._searched_scene = time, scene
            (whole if new else others).append(key)
        self._keep(chunk, whole, self._mtcnn.detect(chunk.frames[whole], shrunk=self._shrunk) if whole else [])
        expected = [self._nearest(chunk, key) for key in others]
        self._search_around(chunk, others, expected, [True] * len(others))

    def _search_around(self, chunk: _Chunk, where: list[int], expected: list[Faces], must: list[bool]) -> None:
        """Searches these frames around the expected faces, and as a whole where one that must be there is missing.

        Of a crowd as many as are kept are found around them, too: not all the same, but the whole shows no more.
        """
        boxes = [faces.boxes for faces in expected]
        found = self._mtcnn.detect_near(chunk.frames[where], boxes, shrunk=self._shrunk)
        lost = [
            there and len(pair[1]) < MOST_FACES and len(matched_faces(*pair)) < max(1, len(pair[0]))
            for there, *pair in zip(must, expected, found, strict=True)
        ]
        whole = [i for i, gone in zip(where, lost, strict=True) if gone]
        searched = iter(self._mtcnn.detect(chunk.frames[whole], shrunk=self._shrunk) if whole else [])
        self._keep(chunk, where, [next(searched) if gone else faces for faces, gone in zip(found, lost, strict=True)])

    def _nearest(self, chunk: _Chunk, key: int) -> Faces:
        """The certain faces of the frame of its scene that is known and nearest in time."""
        there = [i for i in chunk.known if chunk.scenes[i] == chunk.scenes[key]]
        nearest = min(there, key=lambda i: abs(i - key))
        return chunk.seen_from(nearest, key).placed.above(self._min_probability)

    def _keep(self, chunk: _Chunk, where: list[int], found: list[Faces]) -> None:
        """Takes what the cascade found in these frames for known."""
        alone = self._refine(chunk, where, found)
        for i, faces, again in zip(where, found, alone, strict=True):
            bias = ((again.boxes - faces.boxes) / again.sides[:, None]).clip(-_MAX_BIAS, _MAX_BIAS)
            cut = self._cut_off(chunk, faces)
            boxes, bias = np.where(cut, faces.boxes, again.boxes), np.where(cut, np.nan, bias)
            chunk.known[i] = _Seen(Faces(boxes, faces.probabilities, again.landmarks), bias)

    def _cut_off(self, chunk: _Chunk, faces: Faces) -> NDArray[np.bool_]:
        """(n, 1) whether the picture's edge cuts what O-Net sees of them: then what it alone says is another thing."""
        size, edge = np.array(chunk.frames.shape[2:0:-1]) / self._shrunk, _EDGE * faces.sides[:, None]
        return np.asarray(((faces.boxes[:, :2] < edge) | (faces.boxes[:, 2:] > size - edge)).any(axis=1, keepdims=True))

    def _refine(self, chunk: _Chunk, where: list[int], expected: list[Faces]) -> list[Faces]:
        """What O-Net alone makes of the expected faces of these frames."""
        frames = [chunk.frames[i] for i, faces in zip(where, expected, strict=True) for _ in range(len(faces))]
        found = self._mtcnn.refine(frames, joined(expected).boxes, shrunk=self._shrunk)
        ends = np.cumsum([len(faces) for faces in expected])
        return [found.take(range(end - len(faces), end)) for end, faces in zip(ends, expected, strict=True)]

    def _halve(self, chunk: _Chunk, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Looks at the middle of every span; the spans that must be halved again."""
        plans = {span: self._plan(chunk, span, _middle(span)) for span in spans}
        plans = {span: plan for span, plan in plans.items() if len(plan.seen.faces)}
        middles = [_middle(span) for span in plans]
        found = self._refine(chunk, middles, [plan.seen.placed for plan in plans.values()])
        again: list[tuple[int, int]] = []
        unclear: list[tuple[int, int]] = []
        for (span, plan), faces in zip(plans.items(), found, strict=True):
            overlap = iou(faces.boxes, plan.seen.faces.boxes)
            there = (overlap >= _LOST_IOU) & (faces.probabilities >= THRESHOLDS[2])
            if not there.all() or self._cut_off(chunk, plan.seen.placed).any():
                unclear.append(span)
                continue
            chunk.known[_middle(span)] = _Seen(faces, plan.seen.bias)
            if overlap[: plan.both].min(initial=1.0) < _EVEN_IOU or plan.both < len(faces):
                again += _halves(*span)
        where, expected = [_middle(span) for span in unclear], [plans[span].seen.placed for span in unclear]
        # One that is seen on one side only comes or goes, and need not be anywhere.
        self._search_around(chunk, where, expected, [plans[span].both > 0 for span in unclear])
        uneven = [span for span in unclear if not _even(plans[span], chunk.known[_middle(span)])]
        return again + [half for span in uneven for half in _halves(*span)]

    def _fill(self, chunk: _Chunk) -> None:
        """Takes for known, where the camera moved the faces, what is between two looks."""
        for a, b in _spans(chunk):
            path_px = np.abs(np.diff(chunk.camera[a : b + 1], axis=0)).sum(axis=0).max(initial=0)
            if len(chunk.known[a].faces) and path_px > _FILLED * chunk.known[a].faces.sides.min():
                for i in range(a + 1, b):
                    plan = self._plan(chunk, (a, b), i)
                    chunk.known[i] = plan.seen.take(list(range(plan.both)))

    def _plan(self, chunk: _Chunk, span: tuple[int, int], at: int) -> _Plan:
        """What to look for in a frame between two that are known."""
        left, right = (chunk.seen_from(i, at) for i in span)
        first_s, last_s = chunk.times_s[list(span)]
        share = float((chunk.times_s[at] - first_s) / (last_s - first_s))
        pairs = matched_faces(left.faces, right.faces)
        rest = [self._others(seen.faces, [pair[k] for pair in pairs]) for k, seen in enumerate((left, right))]
        # What is left on both sides may be one that moved far.
        far = matched_faces(left.faces.take(rest[0]), right.faces.take(rest[1]), shift=np.inf)
        pairs += [(int(rest[0][i]), int(rest[1][j])) for i, j in far]
        i, j = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        between = left.take(i).towards(right.take(j), share)
        seen = [between, *(one.take(self._others(one.faces, kept)) for one, kept in ((left, i), (right, j)))]
        return _Plan(_Seen(joined([one.faces for one in seen]), np.concatenate([one.bias for one in seen])), len(pairs))

    def _others(self, faces: Faces, known: list[int]) -> NDArray[np.int64]:
        """Those certain enough to be followed that are not among the known."""
        return np.setdiff1d(np.flatnonzero(faces.probabilities >= self._min_probability), known)


def _spans(chunk: _Chunk) -> list[tuple[int, int]]:
    """From each frame that is known to the next one of its scene."""
    return [(a, b) for a, b in pairwise(sorted(chunk.known)) if chunk.scenes[a] == chunk.scenes[b]]


def _middle(span: tuple[int, int]) -> int:
    return (span[0] + span[1]) // 2


def _even(plan: _Plan, found: _Seen) -> bool:
    """Whether all faces were seen on both sides, and are where they should be between."""
    pairs = np.array(matched_faces(plan.seen.faces, found.faces), int).reshape(-1, 2)
    overlap = iou(plan.seen.placed.boxes[pairs[:, 0]], found.placed.boxes[pairs[:, 1]])
    return plan.both == len(plan.seen.faces) == len(pairs) and float(overlap.min(initial=1.0)) >= _EVEN_IOU


def _halves(a: int, b: int) -> list[tuple[int, int]]:
    return [(a, (a + b) // 2), ((a + b) // 2, b)]


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
