"""The batched driver finds what facenet-pytorch finds, and says so of one place alone."""

import facenet_pytorch
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from pipeline.faces import mtcnn
from pipeline.faces.following import iou
from pipeline.faces.mtcnn import Faces, Mtcnn, search_px
from pipeline.faces.networks import torch_networks
from pipeline.faces.sums import integral
from tests.pipeline.moving_face import noisy, photograph, scene, with_face

torch = pytest.importorskip("torch")
NETWORKS = torch_networks("cpu")


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    """None, one large, two, one at the edge, a small one."""
    empty = scene()
    pair = with_face(with_face(empty, -20, 0, 0.3), 180, 30, 0.35)
    made = [empty, with_face(empty, 60, -20, 0.6), pair, with_face(empty, 170, 60, 0.5), with_face(empty, 90, 90, 0.2)]
    return noisy(np.stack(made))


@pytest.mark.parametrize("min_face_px", [20, 30])
def test_exactly_facenet_pytorchs_boxes(frames: NDArray[np.uint8], min_face_px: int) -> None:
    theirs = facenet_pytorch.MTCNN(min_face_size=min_face_px, keep_all=True)
    ours = Mtcnn(min_face_px, NETWORKS).detect(frames)
    found = 0
    for frame, faces in zip(frames, ours, strict=True):
        boxes, probabilities, landmarks = theirs.detect(frame, landmarks=True)
        if boxes is None:
            assert len(faces) == 0
            continue
        found += len(boxes)
        order = np.argsort(-probabilities.astype(float), kind="stable")
        mine = faces.take(np.argsort(-faces.probabilities, kind="stable"))
        assert iou(mine.boxes, boxes[order].astype(float)).min() > 0.999
        assert mine.probabilities == pytest.approx(probabilities[order].astype(float), abs=1e-4)
        assert mine.landmarks == pytest.approx(landmarks[order].astype(float), abs=0.05)
    assert found >= 5


def test_no_frame_depends_on_its_batch(frames: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    together = Mtcnn(30, NETWORKS).detect(frames)
    monkeypatch.setattr(mtcnn, "_BATCH_PIXELS", 1)
    for alone, batched in zip(Mtcnn(30, NETWORKS).detect(frames), together, strict=True):
        assert alone.boxes == pytest.approx(batched.boxes, abs=1e-2)


def test_pictures_smaller_than_a_face_have_none() -> None:
    assert [len(faces) for faces in Mtcnn(30, NETWORKS).detect(np.zeros((2, 20, 300, 3), np.uint8))] == [0, 0]
    assert [len(faces) for faces in Mtcnn(30, NETWORKS).detect(np.zeros((1, 1, 1, 3), np.uint8))] == [0]


def test_shrunk_pictures_give_boxes_of_the_whole(frames: NDArray[np.uint8]) -> None:
    half = frames.reshape(5, 144, 2, 180, 2, 3).mean(axis=(2, 4)).round().astype(np.uint8)
    whole = Mtcnn(28, NETWORKS).detect(frames[1:2])[0]
    assert iou(Mtcnn(28, NETWORKS).detect(half[1:2], shrunk=0.5)[0].boxes[:1], whole.boxes[:1]) > 0.85


def test_what_is_found_near_a_face_is_what_the_whole_search_finds_there(frames: NDArray[np.uint8]) -> None:
    """Also for two in one frame, one at the edge, one much smaller, and in shrunk pictures."""
    half = frames.reshape(5, 144, 2, 180, 2, 3).mean(axis=(2, 4)).round().astype(np.uint8)
    overlaps: list[float] = []
    for pictures, shrunk in ((frames[1:], 1.0), (half[1:4], 0.5)):
        detector = Mtcnn(search_px(30), NETWORKS)
        whole = detector.detect(pictures, shrunk=shrunk)
        near = detector.detect_near(pictures, [faces.boxes + 2 for faces in whole], shrunk=shrunk)
        for all_of_it, around in zip(whole, near, strict=True):
            assert len(around) == len(all_of_it) > 0
            overlaps.extend(iou(around.boxes, all_of_it.boxes))
    assert min(overlaps) > 0.85  # of two candidates as good, another one may win
    assert np.median(overlaps) > 0.98
    elsewhere = [np.array([[5.0, 200, 65, 280]]), np.zeros((0, 4)), np.zeros((0, 4))]
    assert [len(faces) for faces in detector.detect_near(frames[:3], elsewhere)] == [0, 0, 0]
    assert detector.detect_near(frames[:0], []) == []


def test_onet_alone_confirms_a_face_and_denies_an_empty_place(frames: NDArray[np.uint8]) -> None:
    detector = Mtcnn(28, NETWORKS)
    face = detector.detect(frames[1:2])[0].boxes[:1]
    elsewhere = np.array([[2.0, 180, 82, 280]])
    beyond = np.array([[900.0, 900, 950, 950]])
    found = detector.refine([frames[1], frames[0], frames[0]], np.concatenate([face, elsewhere, beyond]))
    assert found.probabilities[0] > 0.95
    assert iou(found.boxes[:1], face) > 0.85
    assert (found.probabilities[1:] < 0.7).all()
    assert len(detector.refine([], np.zeros((0, 4)))) == 0


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 200), st.integers(0, 100), st.sampled_from([24, 48]))
def test_crops_are_those_of_area_interpolation(width: int, height: int, left: int, top: int, size: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (101, 203, 3), dtype=np.uint8)
    sums = integral(frame[None])
    box = np.array([[left + 1.4, top + 1.4, left + width + 0.3, top + height + 0.3]], np.float32)
    searched = mtcnn._Searched(sums, 1.0)
    kept, _, crop = searched.crops(box, np.zeros(1, np.int64), size)
    part = frame[top : top + height, left : left + width]
    if part.size == 0:
        assert len(kept) == 0
        return
    want = interpolate(torch.from_numpy(part).permute(2, 0, 1)[None].float(), size=(size, size), mode="area")
    assert crop == pytest.approx(want.numpy(), abs=1e-3)


@pytest.mark.parametrize(("asked", "searched"), [(12, 12), (20, 20), (27, 20), (30, 28.2), (56, 39.8), (60, 56.1)])
def test_the_search_keeps_step_with_facenet_pytorchs_pyramid(asked: float, searched: float) -> None:
    assert search_px(asked) == pytest.approx(searched, abs=0.05)


def test_faces_are_taken_and_interpolated() -> None:
    faces = Faces(np.arange(8.0).reshape(2, 4), np.array([0.7, 0.9]), np.zeros((2, 5, 2)))
    assert faces.above(0.8).probabilities.tolist() == [0.9]
    assert faces.take([]).boxes.shape == (0, 4)
    assert faces.take([1, 0]).towards(faces, 0.25).probabilities == pytest.approx([0.85, 0.75])


def test_of_a_crowd_the_foremost_are_looked_at_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """360 small faces and a large one: R- and O-Net look at a bounded part of what P-Net takes for faces."""
    crowd = np.tile(photograph(0.07)[:30], (15, 24, 1))
    large = photograph(0.3)
    crowd[: len(large), : large.shape[1]] = large
    monkeypatch.setattr(mtcnn, "_MOST_SQUARES", 900)
    monkeypatch.setattr(mtcnn, "_MOST_REFINED", 250)
    looked: list[int] = []
    detector = Mtcnn(12, NETWORKS)
    run = detector._run
    monkeypatch.setattr(detector, "_run", lambda net, crops: looked.append(len(crops)) or run(net, crops))
    faces, alone = detector.detect(crowd[None])[0], Mtcnn(40, NETWORKS).detect(crowd[None])[0]
    assert len(faces) == mtcnn.MOST_FACES
    assert sum(looked) <= 900 + 250
    foremost = faces.sides.argmax()
    assert iou(faces.boxes[foremost][None], alone.boxes[:1]) > 0.8
