"""The camera's movement is measured; what moves before a resting ground is none of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.faces.camera import camera_shifts, cuts, head_changes, head_cuts
from tests.pipeline.moving_face import noisy, scene, with_face

GROUND = np.random.default_rng(3).normal(size=(40, 60))


def view(left: int, top: int) -> NDArray[np.uint8]:
    """(288, 360, 3) a window of a larger, uneven picture."""
    rows, columns = np.mgrid[top : top + 288, left : left + 360] / 12
    large = (GROUND - GROUND.min()) / np.ptp(GROUND) * 255
    i, j = rows.astype(int), columns.astype(int)
    y, x = rows - i, columns - j
    upper, lower = ((1 - x) * large[i + k, j] + x * large[i + k, j + 1] for k in (0, 1))
    return np.repeat(((1 - y) * upper + y * lower)[:, :, None], 3, axis=2).astype(np.uint8)


@settings(max_examples=20, deadline=None)
@given(st.integers(-60, 60), st.integers(-40, 40))
def test_a_pan_is_measured(x: int, y: int) -> None:
    frames = noisy(np.stack([view(150, 80), view(150 + x, 80 + y)]))
    assert camera_shifts(frames)[0] == pytest.approx([-x, -y], rel=0.1, abs=2)  # a thumbnail's pixel is 8


def test_a_small_face_that_moves_alone_is_no_pan() -> None:
    tiles = np.random.default_rng(1).integers(0, 255, (24, 30, 3), dtype=np.uint8)
    ground = tiles.repeat(12, axis=0).repeat(12, axis=1)
    frames = noisy(np.stack([with_face(ground, 60 + 8 * t, 40, 0.15) for t in range(5)]))
    assert np.abs(camera_shifts(frames)).max() < 3
    assert (camera_shifts(noisy(np.stack([ground] * 3))) == 0).all()


def test_too_few_or_too_small_pictures_do_not_move() -> None:
    assert camera_shifts(scene()[None]).shape == (0, 2)
    assert camera_shifts(np.zeros((3, 2, 300, 3), np.uint8)).tolist() == [[0, 0]] * 2
    assert np.isfinite(camera_shifts(np.zeros((3, 100, 100, 3), np.uint8))).all()


def test_only_what_is_sudden_beside_what_is_usual_is_a_cut() -> None:
    calm, restless = [0.05, 0.1, 0.08, 0.06], [0.4, 0.5, 0.45, 0.38]
    assert np.flatnonzero(cuts(np.array([*calm, 0.6, *calm]))).tolist() == [4]
    assert not cuts(np.array([*restless, 0.6, *restless])).any()
    assert not cuts(np.array([*calm, 0.4, *calm])).any()


def test_only_a_change_of_heads_that_stands_alone_is_a_cut() -> None:
    calm = [0.05, 0.1, 0.08, 0.06]
    assert np.flatnonzero(head_cuts(np.array([*calm, 0.4, *calm]))).tolist() == [4]
    assert np.flatnonzero(head_cuts(np.array([*calm, 0.4, np.nan, *calm]))).tolist() == [4]
    assert not head_cuts(np.array([*calm, 0.4, 0.1, 0.2, *calm])).any()  # it goes on to move
    assert not head_cuts(np.array([*calm, 0.2, 0.4, *calm])).any()
    assert not head_cuts(np.array([*calm, 0.3, *calm])).any()


def test_heads_are_compared_where_the_faces_are() -> None:
    """A new ground counts for nothing, another head before the same ground for much; the larger of two counts more."""
    ground = noisy(view(150, 80)[None])[0]
    one, other = with_face(ground, 60, 0), with_face(ground[:, ::-1], 60, 0)
    box = np.array([130.0, 30, 210, 130])
    assert head_changes(np.stack([one, other]), np.stack([[box]] * 2)) < 0.3
    bare = np.stack([one, ground])
    assert head_changes(bare, np.stack([[box]] * 2)) > 0.5
    elsewhere = np.array([0.0, 200, 40, 240])
    both = head_changes(bare, np.stack([[box, elsewhere]] * 2))
    assert 0.75 < both / head_changes(bare, np.stack([[box]] * 2)) < 1
    assert head_changes(bare, np.stack([[box + 900]] * 2)) == pytest.approx(0, abs=0.5)  # beyond the picture: its edge
