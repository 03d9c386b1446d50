"""Following looks at few frames and knows all: a real face on drawn pictures, moved, cut, taken away."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.faces.camera import changes
from pipeline.faces.following import Follower, iou
from pipeline.faces.mtcnn import Faces, Mtcnn
from pipeline.faces.networks import torch_networks
from pipeline.faces.tracks import Track, link_tracks
from tests.pipeline.moving_face import noisy, scene, with_face

FPS = 25.0


class Counting(Mtcnn):
    """Counts the frames that are searched whole, and the places at which O-Net alone looks."""

    searched = placed = 0

    def detect(self, frames: NDArray[np.uint8], *, shrunk: float = 1.0) -> list[Faces]:
        self.searched += len(frames)
        return super().detect(frames, shrunk=shrunk)

    def refine(self, frames: Sequence[NDArray[np.uint8]], boxes: NDArray[np.float64], *, shrunk: float = 1.0) -> Faces:
        self.placed += len(boxes)
        return super().refine(frames, boxes, shrunk=shrunk)


@pytest.fixture(scope="module")
def detector() -> Counting:
    return Counting(28.2, torch_networks("cpu"))


def follow(
    frames: list[NDArray[np.uint8]], detector: Counting, *, chunk: int = 64, noise: float = 3.0
) -> tuple[list[Track], Follower, NDArray[np.float64]]:
    detector.searched = detector.placed = 0
    pictures = noisy(np.stack(frames), amount=noise)
    times = np.arange(len(frames)) / FPS
    follower = Follower(detector, min_probability=0.9)
    for i in range(0, len(frames), chunk):
        follower.add(times[i : i + chunk], pictures[i : i + chunk])
    follower.finish()
    return link_tracks(follower.looks), follower, times


def boxes_of(frames: list[NDArray[np.uint8]], detector: Mtcnn) -> NDArray[np.float64]:
    """(T, 4) the search's own largest box, frame by frame."""
    found = detector.detect(noisy(np.stack(frames), amount=3.0))
    return np.stack([faces.boxes[(faces.boxes[:, 2:] - faces.boxes[:, :2]).prod(axis=1).argmax()] for faces in found])


def test_a_still_face_is_searched_for_rarely_and_trembles_less(detector: Counting) -> None:
    frames = [with_face(scene(), 60, 0)] * 33
    tracks, _, times = follow(frames, detector)
    assert len(tracks) == 1
    assert tracks[0].seen_at(times).all()
    assert detector.searched <= 4
    ours, theirs = tracks[0].at(times, smooth_s=0.12).boxes, boxes_of(frames, detector)
    assert iou(ours, theirs).mean() > 0.9  # three searches tell where MTCNN puts its boxes
    assert iou(ours[1:], ours[:-1]).mean() > max(0.99, iou(theirs[1:], theirs[:-1]).mean())


def test_a_pan_is_followed_without_lag(detector: Counting) -> None:
    frames = [with_face(scene(), 5 * t - 60, 3 * np.sin(t / 3)) for t in range(40)]
    tracks, _, times = follow(frames, detector)
    track = max(tracks, key=lambda track: track.weight)
    assert track.seen_at(times).all()
    centres = track.at(times, smooth_s=0.12).boxes.reshape(-1, 2, 2).mean(axis=1)
    offset = centres[:, 0] - (5 * np.arange(40) - 60)
    assert abs(np.polyfit(np.arange(40), offset, 1)[0]) < 0.25  # as fast as the face
    assert offset.std() < 4  # of a face of 100 px
    assert iou(track.at(times).boxes, boxes_of(frames, detector)).mean() > 0.88


def test_a_pan_that_turns_costs_no_more_looks_than_a_still_head(detector: Counting) -> None:
    """Photograph and ground move together, by up to 10 px a frame, back and forth between two key frames."""
    where = [40 * np.sin(t / 4) for t in range(17)]
    large = noisy(scene(90, 320, 480), amount=25)
    frames = [np.ascontiguousarray(with_face(large, 100, 10)[16:304, round(60 - x) : round(420 - x)]) for x in where]
    tracks, _, times = follow(frames, detector)
    assert detector.placed <= 6
    centre = tracks[0].at(times).boxes.reshape(-1, 2, 2).mean(axis=1)[:, 0]
    assert np.abs(centre - centre.mean() - where + np.mean(where)).max() < 6  # of a face of 100 px


def test_a_sudden_stop_between_key_frames_is_seen(detector: Counting) -> None:
    where = [min(12 * t, 96) for t in range(17)]
    tracks, follower, times = follow([with_face(scene(), x, 0) for x in where], detector)
    centre = tracks[0].at(times).boxes.reshape(-1, 2, 2).mean(axis=1)[:, 0]
    assert np.abs(centre - centre[0] - where).max() < 10  # straight from first to last it would be 48
    assert len(follower.looks) > 3


def test_a_scene_cut_ends_a_track_at_the_frame(detector: Counting) -> None:
    frames = [with_face(scene(90), 60, 0)] * 11 + [with_face(scene(200, 288), 70, 10, 0.45)] * 9
    tracks, _, times = follow(frames, detector)
    assert [list(np.flatnonzero(track.seen_at(times))) for track in tracks] == [list(range(11)), list(range(11, 20))]


def test_another_head_at_the_same_place_before_the_same_ground_is_another_track(detector: Counting) -> None:
    """Mirrored and darker, so small that the whole picture hardly changes; a head that turns as slowly is one track."""
    one = with_face(scene(), 130, 60, 0.3)
    other = np.ascontiguousarray(with_face(np.ascontiguousarray(scene()[:, ::-1]), 78, 62, 0.3)[:, ::-1])
    lit = np.abs(other.astype(int) - scene()).max(axis=2, keepdims=True) > 0
    other = np.where(lit, (other * 0.6).astype(np.uint8), other)
    assert changes(np.stack([one, other]))[0] < 0.45
    for chunk in (64, 7):
        tracks, _, times = follow([one] * 14 + [other] * 12, detector, chunk=chunk)
        assert [list(np.flatnonzero(t.seen_at(times))) for t in tracks] == [list(range(14)), list(range(14, 26))]
    slowly = [(one + (other.astype(float) - one) * t / 25).astype(np.uint8) for t in range(26)]
    assert len(follow(slowly, detector)[0]) == 1


def test_a_head_that_turns_at_once_is_one_track(detector: Counting) -> None:
    """Aside and out of the light within four pictures, wherever the chunks end."""
    one = with_face(scene(), 130, 60, 0.3)
    other = with_face(scene(), 136, 62, 0.3)
    lit = np.abs(other.astype(int) - scene()).max(axis=2, keepdims=True) > 0
    other = np.where(lit, (other * 0.4).astype(np.uint8), other)
    turn = [(one + (other.astype(float) - one) * share).astype(np.uint8) for share in (0.3, 0.7)]
    frames = [one] * 14 + turn + [other] * 12
    for chunk in (64, 14, 15, 16):
        assert len(follow(frames, detector, chunk=chunk)[0]) == 1


def test_a_face_that_comes_and_goes_is_found_to_the_frame(detector: Counting) -> None:
    frames = [scene()] * 7 + [with_face(scene(), 60, 0, 0.3)] * 30 + [scene()] * 5
    tracks, _, times = follow(frames, detector, noise=1)
    assert len(tracks) == 1
    assert list(np.flatnonzero(tracks[0].seen_at(times))) == list(range(7, 37))


def test_chunks_make_no_difference_to_who_is_seen_when(detector: Counting) -> None:
    frames = [with_face(with_face(scene(), 10 + t, 0, 0.4), 210 - t, 20, 0.3) for t in range(30)]
    for chunk in (64, 10, 1):
        tracks, _, times = follow(frames, detector, chunk=chunk)
        assert len(tracks) == 2
        assert all(track.seen_at(times).all() for track in tracks)


def test_without_faces_there_are_no_tracks(detector: Counting) -> None:
    assert follow([scene()] * 20, detector)[0] == []
    assert follow([scene()[:15, :15]] * 3, detector)[0] == []
    assert follow([with_face(scene(), 60, 0)], detector)[0][0].times_s.tolist() == [0]
