"""Tracks follow one person; smoothing takes the trembling and adds no lag."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.faces.following import iou
from pipeline.faces.mtcnn import Faces
from pipeline.faces.tracks import Look, Track, link_tracks, matched_faces

STEP_S = 0.1


def face(x: float, y: float, side: float, probability: float = 0.99) -> Faces:
    box = np.array([[x - side / 2, y - side / 2, x + side / 2, y + side / 2]])
    eyes = [[x - side / 5, y - side / 6], [x + side / 5, y - side / 6]]
    return Faces(box, np.array([probability]), np.array([[*eyes, [x, y], [x - 5, y + 9], [x + 5, y + 9]]]))


def together(*faces: Faces) -> Faces:
    names = ("boxes", "probabilities", "landmarks")
    return Faces(*(np.concatenate([getattr(one, name) for one in faces]) for name in names))


NOBODY = face(0, 0, 1).take([])


def looks(frames: list[Faces], scenes: list[int] | None = None) -> list[Look]:
    return [Look(STEP_S * t, faces, scenes[t] if scenes else 0) for t, faces in enumerate(frames)]


def test_no_jumping_between_people() -> None:
    """Two people; the one on the left is missed twice, and must not be continued by the other."""
    left = [face(50 + t, 60, 40) for t in range(8)]
    right = [face(200 - t, 60, 42) for t in range(8)]
    frames = [right[t] if t in (3, 4) else together(*[left[t], right[t]][:: 1 if t % 2 else -1]) for t in range(8)]
    tracks = link_tracks(looks(frames))
    assert len(tracks) == 2
    times = STEP_S * np.arange(8)
    best, other = sorted(tracks, key=lambda track: -track.weight)
    assert best.seen_at(times).all()  # seen in all frames, so more persistent
    assert np.allclose(best.at(times).boxes[:, 0], 200 - np.arange(8) - 21)
    assert list(np.flatnonzero(~other.seen_at(times))) == [3, 4]
    assert np.allclose(other.at(times).boxes[:, 0], 50 + np.arange(8) - 20)  # interpolated where it was missed
    assert not other.seen_at(times[2:3] + STEP_S / 2).any()
    assert best.seen_at(times[2:3] + STEP_S / 2).all()


@pytest.mark.parametrize(
    ("frames", "left_edge"),
    [
        ([together(face(50, 50, 30), face(200, 100, 80))] * 4, 160),  # equally persistent: the larger
        ([face(50, 50, 30)] * 3 + [together(face(50, 50, 30), face(200, 100, 80))] + [face(50, 50, 30)] * 4, 35),
    ],
)
def test_the_most_persistent_largest_weighs_most(frames: list[Faces], left_edge: float) -> None:
    best = max(link_tracks(looks(frames)), key=lambda track: track.weight)
    assert best.faces.boxes[0, 0] == left_edge


def test_a_face_elsewhere_or_of_another_size_begins_a_new_track() -> None:
    assert len(link_tracks(looks([face(50, 50, 40), face(150, 50, 40)]))) == 2
    assert len(link_tracks(looks([face(50, 50, 40), face(50, 50, 90)]))) == 2
    assert len(link_tracks(looks([face(50, 50, 40), face(60, 50, 45)]))) == 1
    assert link_tracks(looks([NOBODY, NOBODY])) == []


def test_a_scene_cut_and_a_long_absence_end_a_track() -> None:
    assert len(link_tracks(looks([face(50, 50, 40)] * 4, scenes=[0, 0, 1, 1]))) == 2
    assert len(link_tracks(looks([face(50, 50, 40)] + [NOBODY] * 10 + [face(50, 50, 40)]))) == 1
    assert len(link_tracks(looks([face(50, 50, 40)] + [NOBODY] * 25 + [face(50, 50, 40)]))) == 2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(0, 12))
def test_the_nearest_two_that_are_free_are_matched_first(seed: int, here: int, there: int) -> None:
    """Also where some are as near as others: places are whole pixels."""
    draw = np.random.default_rng(seed)
    left, right = (
        together(NOBODY, *(face(*draw.integers(0, 60, 2), side) for side in draw.integers(20, 50, n)))
        for n in (here, there)
    )
    want: list[tuple[int, int]] = []
    for _ in range(min(here, there)):
        free = [
            (np.linalg.norm((left.boxes[i] - right.boxes[j]).reshape(2, 2).sum(axis=0)) / 2 / max(sides), i, j)
            for i in range(here)
            for j in range(there)
            if max(sides := (left.sides[i], right.sides[j])) / min(sides) <= 1.8
            and i not in [pair[0] for pair in want]
            and j not in [pair[1] for pair in want]
        ]
        near = [pair for pair in free if pair[0] < 0.7]
        want += [min(near)[1:]] if near else []
    assert matched_faces(left, right) == want


def track_of(times: NDArray[np.float64], x: NDArray[np.float64], side: float = 80.0) -> Track:
    return link_tracks([Look(float(t), face(float(c), 100, side)) for t, c in zip(times, x, strict=True)])[0]


def test_smoothing_calms_a_still_face() -> None:
    times = np.arange(0, 4, 0.04)
    track = track_of(times, 100 + np.random.default_rng(0).normal(0, 2, len(times)))
    raw, smooth = track.at(times).boxes, track.at(times, smooth_s=0.12).boxes
    jitter = [1 - iou(boxes[1:], boxes[:-1]).mean() for boxes in (raw, smooth)]
    assert jitter[1] < jitter[0] / 3
    errors = [np.sqrt(((boxes[:, 0] - 60) ** 2).mean()) for boxes in (raw, smooth)]
    assert errors[1] < errors[0] / 2


@given(st.floats(-200, 200), st.floats(0, 3))
def test_smoothing_has_no_lag_under_a_pan(speed: float, at_s: float) -> None:
    """px/s; also at the ends, and where looks are few."""
    times = np.concatenate([np.arange(0, 1, 0.04), np.arange(1, 3.01, 0.2)])
    found = track_of(times, 1000 + speed * times).at(np.array([at_s]), smooth_s=0.12).boxes[0]
    assert (found[0] + found[2]) / 2 == pytest.approx(1000 + speed * at_s, abs=0.01)


def test_smoothing_keeps_a_nod() -> None:
    """A swing of 20 px, once a second: less than 2 px are lost where the face turns back."""
    times = np.arange(0, 4, 0.04)
    swing = 20 * np.sin(2 * np.pi * times)
    found = track_of(times, swing).at(times, smooth_s=0.12).boxes
    inside = (times > 0.4) & (times < 3.6)
    assert abs((found[:, 0] + found[:, 2]) / 2 - swing)[inside].max() < 2


def test_one_look_is_a_track_too() -> None:
    track = track_of(np.array([1.0]), np.array([50.0]))
    assert track.at(np.array([0.0, 1.0, 9.0]), smooth_s=0.12).boxes[:, 0].tolist() == [10, 10, 10]
    assert track.seen_at(np.array([0.0, 1.0, 9.0])).tolist() == [False, True, False]
