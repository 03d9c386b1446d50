"""Drawn faces and what the visual manipulations do to them."""

import dataclasses

import numpy as np
import pytest

from pipeline.synth.face import CANVAS_PX, draw_head, face_oval
from pipeline.synth.fake_video import Patch
from pipeline.synth.identity import donor_of, draw_identity
from pipeline.synth.picture import canvas_transform, render
from pipeline.synth.plan import VIDEO_METHODS
from pipeline.synth.take import FRAME_PX, Take, draw_take

FRAMES = 32  # just over a second: long enough for a take to have speech in it


@pytest.fixture(scope="module")
def take() -> Take:
    return dataclasses.replace(draw_take(0, 0, 0), frames=FRAMES)


@pytest.fixture(scope="module")
def mouth() -> np.ndarray:
    return np.tile([[0.0, 0.0], [0.3, 0.5], [0.7, 0.0], [1.0, -0.5]], (FRAMES // 4, 1))


@pytest.fixture(scope="module")
def real(take: Take, mouth: np.ndarray) -> np.ndarray:
    return render(draw_identity(0, 0), take, mouth)


def test_identities_come_from_the_seed_and_differ() -> None:
    assert draw_identity(0, 3) == draw_identity(0, 3)
    assert draw_identity(0, 3) != draw_identity(1, 3)
    faces = {draw_identity(0, index).face for index in range(40)}
    assert len(faces) == 40
    assert [donor_of(index) for index in range(4)] == [1, 0, 3, 2]


def test_mouth_opening_darkens_a_growing_area(take: Take) -> None:
    head = draw_head(draw_identity(0, 1).face, take.light).with_eyes(1.0)
    closed = head.with_mouth(0.0, 0.0)
    areas = []
    for opening in (0.0, 0.25, 0.5, 0.75, 1.0):
        canvas = head.with_mouth(opening, 0.0)
        assert canvas.shape == (CANVAS_PX, CANVAS_PX, 3)
        areas.append((np.abs(canvas - closed).max(2) > 20).sum())
    assert areas == sorted(areas)
    assert areas[-1] > areas[1] > areas[0] == 0


def test_eyes_close_without_touching_the_rest(take: Take) -> None:
    head = draw_head(draw_identity(0, 1).face, take.light)
    changed = np.abs(head.with_eyes(1.0).colour - head.with_eyes(0.0).colour).max(2) > 1
    rows = np.flatnonzero(changed.any(1))
    assert changed.sum() > 200
    assert rows.max() - rows.min() < 50


def test_pose_maps_the_frame_centre_onto_the_canvas_centre() -> None:
    a, b, c, d, e, f = canvas_transform(np.array([7.0, -3.0, 5.0, 0.9]))
    x, y = FRAME_PX / 2 + 7, FRAME_PX / 2 - 3
    assert (a * x + b * y + c, d * x + e * y + f) == pytest.approx((CANVAS_PX / 2, CANVAS_PX / 2))
    assert a * e - b * d == pytest.approx(1 / 0.9**2)


def test_frames_are_a_function_of_the_seed(take: Take, mouth: np.ndarray, real: np.ndarray) -> None:
    assert real.shape == (FRAMES, FRAME_PX, FRAME_PX, 3)
    assert real.dtype == np.uint8
    np.testing.assert_array_equal(real, render(draw_identity(0, 0), take, mouth))
    assert (real != render(draw_identity(1, 0), dataclasses.replace(take, seed=1), mouth)).any()


@pytest.mark.parametrize("method", VIDEO_METHODS)
def test_retouch_changes_the_face_alone_and_less_when_difficult(
    method: str, take: Take, mouth: np.ndarray, real: np.ndarray
) -> None:
    identity = draw_identity(0, 0)
    change = []
    for difficulty in (0.0, 1.0):
        retouch = Patch(method, target=identity, take=take, mouth=mouth, difficulty=difficulty)
        fake = render(identity, take, mouth, retouch)
        # 24 px: outside the head, and a JPEG block away from it.
        for edge in (np.s_[:, :24], np.s_[:, :, :24], np.s_[:, :, -24:]):
            np.testing.assert_array_equal(fake[edge], real[edge])
        change.append(np.abs(fake.astype(int) - real).mean())
    assert change[0] > 0.5
    assert change[0] > change[1] > 0


def test_swapped_region_lies_inside_the_face() -> None:
    for index in range(20):
        face = draw_identity(0, index).face
        rows, columns = np.nonzero(face_oval(face, 5.0) > 0.5)
        assert columns.max() - columns.min() < 2 * face.half_width_px
        assert rows.max() - rows.min() < 2 * face.half_height_px


def test_unknown_method_is_named(take: Take, mouth: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"'morph'.*face-swap"):
        Patch("morph", target=draw_identity(0, 0), take=take, mouth=mouth, difficulty=0.3)
