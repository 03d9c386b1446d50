"""Crops are cut where they should be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.faces.crops import Pose, cut_crop, in_crop, poses
from tests.pipeline.faces.test_tracks import face


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
        if 6 < want_x < 193 and 6 < want_y < 193:
            assert crop[v, u, :2] == pytest.approx([want_x, want_y], abs=1.2 + 0.2 * step)


@given(st.floats(60, 140), st.floats(60, 140), st.floats(40, 100), st.floats(-0.5, 0.5))
def test_a_point_of_the_picture_is_found_in_the_crop(x: float, y: float, side: float, roll: float) -> None:
    """A white dot on black."""
    frame = np.zeros((200, 200, 3), np.uint8)
    frame[95:106, 105:116] = 255
    pose, size, margin = Pose(np.array([x, y]), side, roll), 64, 0.3
    ((u, v),) = in_crop(np.array([[110.0, 100.0]]), pose, size_px=size, margin=margin)
    if 8 < u < 56 and 8 < v < 56:
        crop = cut_crop(frame, pose, size_px=size, margin=margin)[..., 0].astype(float)
        rows, columns = np.mgrid[0:size, 0:size] + 0.5
        seen = (crop * columns).sum() / crop.sum(), (crop * rows).sum() / crop.sum()
        assert (u, v) == pytest.approx(seen, abs=0.6)


def test_beyond_the_picture_its_edge_is_repeated() -> None:
    frame = np.full((50, 50, 3), 77, np.uint8)
    for centre in ((0.0, 0.0), (49.0, 20.0), (-300.0, 900.0)):
        crop = cut_crop(frame, Pose(np.array(centre), 40.0, 0.3), size_px=32, margin=0.5)
        assert (crop == 77).all()


def test_fine_stripes_of_a_large_face_do_not_alias() -> None:
    frame = np.zeros((600, 600, 3), np.uint8)
    frame[:, ::2] = 255
    crop = cut_crop(frame, Pose(np.array([300.0, 300.0]), 400.0, 0.0), size_px=64, margin=0.0)
    assert crop.std() < 10
    assert crop.mean() == pytest.approx(127, abs=3)


def test_without_alignment_the_box_decides() -> None:
    pose = poses(face(50, 60, 40), "none")[0]
    assert (pose.centre.tolist(), pose.side, pose.roll) == ([50, 60], 40, 0)


@given(st.floats(-3, 3), st.floats(20, 300), st.floats(-50, 500), st.floats(-50, 500))
def test_similarity_turns_sizes_and_places_by_the_landmarks(roll: float, side: float, x: float, y: float) -> None:
    """Landmarks turned, scaled and moved turn, scale and move the crop by as much."""
    straight = face(0, 0, 1)
    one = poses(straight, "similarity")[0]
    turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    moved = type(straight)(straight.boxes, straight.probabilities, side * straight.landmarks @ turn + (x, y))
    pose = poses(moved, "similarity")[0]
    assert pose.side == pytest.approx(side * one.side)
    assert np.angle(np.exp(1j * (pose.roll - one.roll - roll))) == pytest.approx(0, abs=1e-6)
    assert pose.centre == pytest.approx(side * one.centre @ turn + (x, y), abs=1e-6 * side + 1e-6)


def test_one_bad_landmark_turns_a_crop_by_little() -> None:
    bad = face(50, 50, 40)
    bad.landmarks[0, 1, 1] += 6  # the right eye: the eye line alone would turn by 21 degrees
    turned = poses(bad, "similarity")[0].roll - poses(face(50, 50, 40), "similarity")[0].roll
    assert 0 < turned < np.deg2rad(12)
