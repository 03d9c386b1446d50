"""Tracks follow one person; crops are cut where they should be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tracks import Detection, Pose, best_track, cut_crop, link_tracks


def face(x: float, y: float, side: float, probability: float = 0.99) -> Detection:
    box = np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])
    eyes = [[x - side / 5, y - side / 6], [x + side / 5, y - side / 6]]
    return Detection(box, probability, np.array([*eyes, [x, y], [x - 5, y + 9], [x + 5, y + 9]]))


def test_no_jumping_between_people() -> None:
    """Two people; the one on the left is missed twice, and must not be continued by the other."""
    left = [face(50 + t, 60, 40) for t in range(8)]
    right = [face(200 - t, 60, 42) for t in range(8)]
    frames = [[right[t]] if t in (3, 4) else [left[t], right[t]][:: 1 if t % 2 else -1] for t in range(8)]
    tracks = link_tracks(frames)
    assert len(tracks) == 2
    best = best_track(tracks)
    assert best.seen.all()  # seen in all frames, so more persistent
    assert np.allclose(best.boxes[:, 0], 200 - np.arange(8) - 21)
    other = next(track for track in tracks if track is not best)
    assert list(np.flatnonzero(~other.seen)) == [3, 4]
    assert np.allclose(other.boxes[:, 0], 50 + np.arange(8) - 20)  # interpolated where it was missed
    assert (other.probabilities[[3, 4]] == 0).all()


def test_the_larger_of_two_equally_persistent_faces_is_taken() -> None:
    frames = [[face(50, 50, 30), face(200, 100, 80)] for _ in range(4)]
    assert best_track(link_tracks(frames)).boxes[0, 0] == 160


def test_a_passer_by_does_not_win_by_size_alone() -> None:
    frames = [[face(50, 50, 30)] + ([face(200, 100, 80)] if t == 2 else []) for t in range(8)]
    assert best_track(link_tracks(frames)).boxes[0, 0] == 35


def test_a_face_elsewhere_or_of_another_size_begins_a_new_track() -> None:
    assert len(link_tracks([[face(50, 50, 40)], [face(150, 50, 40)]])) == 2
    assert len(link_tracks([[face(50, 50, 40)], [face(50, 50, 90)]])) == 2
    assert len(link_tracks([[face(50, 50, 40)], [face(60, 50, 45)]])) == 1
    assert link_tracks([[], []]) == []


@given(st.floats(30, 170), st.floats(30, 170), st.floats(20, 150), st.floats(-0.5, 0.5))
def test_a_crop_shows_the_face_upright_in_its_middle(x: float, y: float, side: float, roll: float) -> None:
    """The picture is a ramp: the colour of a pixel says where in the picture it came from."""
    rows, columns = np.mgrid[0:200, 0:200]
    frame = np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8)
    margin, size = 0.3, 32
    crop = cut_crop(frame, Pose(np.array([x, y]), side, roll), size_px=size, margin=margin).astype(float)
    assert crop.shape == (size, size, 3)
    step = side * (1 + margin) / size
    for u, v in ((16, 16), (24, 16), (16, 24), (8, 8)):
        du, dv = (u + 0.5 - size / 2) * step, (v + 0.5 - size / 2) * step
        want_x = x + np.cos(roll) * du - np.sin(roll) * dv
        want_y = y + np.sin(roll) * du + np.cos(roll) * dv
        if 3 < want_x < 196 and 3 < want_y < 196:
            assert crop[v, u, :2] == pytest.approx([want_x, want_y], abs=1.6)


def test_beyond_the_picture_its_edge_is_repeated() -> None:
    frame = np.full((50, 50, 3), 77, np.uint8)
    crop = cut_crop(frame, Pose(np.array([0.0, 0.0]), 40.0, 0.3), size_px=32, margin=0.5)
    assert (crop == 77).all()


def test_roll_is_the_eye_lines_and_one_bad_landmark_tips_nothing() -> None:
    detections = [face(50, 50, 40) for _ in range(5)]
    tilted = detections[2].landmarks.copy()
    tilted[1, 1] += 30
    detections[2] = Detection(detections[2].box, 0.99, tilted)
    poses = link_tracks([[d] for d in detections])[0].poses()
    assert [pose.roll for pose in poses] == [0.0] * 5
