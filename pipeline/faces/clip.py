"""The faces of one file: found, followed, and cut out for every window; in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cache_schemas.windows import ClipWindows, Windowed
from pipeline import media
from pipeline.compute.ahead import one_ahead
from pipeline.compute.machine import device_of
from pipeline.faces.crops import cut_crop, poses
from pipeline.faces.following import Follower
from pipeline.faces.mtcnn import CELL_PX, Mtcnn, Networks, search_px
from pipeline.faces.tracks import Look, Track, link_tracks
from pipeline.faces.turned import quarter_turns
from pipeline.params import FaceParams, Params
from pipeline.shards.windows import frame_times

_Full: TypeAlias = Callable[[int, int], media.Frames]
"""(first, last) -> the full pictures of these numbers, `last` not among them."""
_Seen: TypeAlias = tuple[list[Look], _Full]
FOLLOW_HZ = 10.0  # so many pictures a second are followed: enough to tell cuts and motion, fewer than there are
SMOOTH_S = 0.12  # width (standard deviation) of the smoother along a track
_SMALLEST_SHARE = 1 / 18
"""Of a picture's shorter side: smaller faces are not looked for, whatever min_face_px says."""
_PERHAPS_TURNED = "are they turned, with no tag to say so?"
_SMALL_HEIGHT_PX = 360  # pictures are never made smaller than this to search them
_BATCH_PIXELS, _BATCH_PICTURES = 6_000_000, 32
"""Of one batch: large enough for the networks, small enough that decoding and searching go on at once."""
_PERSON_S = 0.5  # a face that is seen for less is no person to count, or to score beside the main one
_UPRIGHT_LOOKS = 4  # so many pictures tell which way up a clip's faces are


@dataclass(frozen=True)
class Shown:
    """Windows of one face, or those of the main one."""

    windowed: Windowed
    tracks: tuple[Track, ...]
    """Who is seen in each of its windows; the main face may be another after a cut."""


def file_faces(
    path: Path,
    windows: ClipWindows,
    params: Params,
    *,
    found: media.Probe | None = None,
    networks: Networks | None = None,
) -> Windowed:
    """The crops of those of a file's windows that show a face often enough; raises MediaError when there is none.

    Of several faces it is the main one: the most persistent and largest. found: what `media.probe` says, where it is
    known better. networks: MTCNN's, where they are not torch's.
    """
    with closing(every_face(path, windows, params, found=found, networks=networks)) as faces:
        return next(faces).windowed


def every_face(
    path: Path,
    windows: ClipWindows,
    params: Params,
    *,
    found: media.Probe | None = None,
    networks: Networks | None = None,
) -> Generator[Shown, None, None]:
    """Yields the main face, as `file_faces` has it, and then each other one that lasts and is seen often enough.

    They are followed once for all, and cut out one after the other: memory is that of one. A window in which a face is
    the main one is not cut a second time for it.
    """
    wanted = frame_times(windows, frames=params.faces.frames, params=params.windows)
    times, where = np.unique(wanted, return_inverse=True)
    where = where.reshape(wanted.shape)
    seek = _follow if params.faces.search == "follow" else _search_every
    found, networks = found or media.probe(path), networks or _by_torch(params)
    with seek(path, times, windows, params.faces, found=found, networks=networks) as (looks, full):
        tracks = [t for t in link_tracks(looks) if t.faces.probabilities.max() >= params.faces.min_probability]
        if not tracks:
            raise media.MediaError(f"no face found in any of {len(looks)} pictures ({_PERHAPS_TURNED})")
        ends = looks[0].time_s, looks[-1].time_s
        seen = np.stack([track.seen_at(np.clip(times, *ends)) for track in tracks])
        presence, persons = seen[:, where].mean(axis=2), _persons(tracks)
        main = _choose(tracks, presence, params.faces)

        def cut(whose: dict[int, int]) -> dict[int, dict[str, NDArray[Any]]]:
            return {w: _cut_window(tracks[k], where[w], full, ends, params.faces) for w, k in whose.items()}

        made = cut(main)
        _refuse_turned(made, where, full, Mtcnn(params.faces.min_face_px, networks))
        info = {
            "people": int(seen[persons].sum(axis=0).max()),
            "presence": round(float(np.mean([(window["probabilities"] > 0).mean() for window in made.values()])), 4),
            "scenes": looks[-1].scene + 1,
        }
        yield _shown(windows, made, [tracks[k] for k in main.values()], info)
        del made
        for k in np.flatnonzero(persons):
            beside = {w: int(k) for w in main if main[w] != k and presence[k, w] >= params.faces.min_presence}
            if beside:
                yield _shown(windows, cut(beside), [tracks[k]] * len(beside), {})


def _shown(
    windows: ClipWindows, made: dict[int, dict[str, NDArray[Any]]], tracks: list[Track], info: dict[str, Any]
) -> Shown:
    arrays = {name: np.stack([window[name] for window in made.values()]) for name in next(iter(made.values()))}
    return Shown(Windowed(tuple(windows.starts_s[w] for w in made), arrays, info), tuple(tracks))


def _follow(
    path: Path,
    times_s: NDArray[np.float64],
    windows: ClipWindows,
    params: FaceParams,
    *,
    found: media.Probe,
    networks: Networks,
) -> AbstractContextManager[_Seen]:
    """Follows the faces through the windows in small pictures, while they are decoded; the full ones wait."""
    spans = [(start, start + windows.available_s) for start in windows.starts_s]
    return follow_faces(path, found, params, networks=networks, full_at_s=times_s.tolist(), spans_s=spans)


@contextmanager
def follow_faces(
    path: Path,
    found: media.Probe,
    params: FaceParams,
    *,
    networks: Networks,
    full_at_s: Sequence[float],
    spans_s: list[media.Span],
) -> Iterator[_Seen]:
    """Yields what was seen inside the spans in FOLLOW_HZ of the pictures a second, and the full pictures' reader."""
    small, every = small_height_px(found, params), small_every(found)
    with media.open_video(
        path, found=found, full_at_s=full_at_s, small_height_px=small, spans_s=spans_s, small_every=every
    ) as video:
        follower = new_follower(found, params, networks=networks)
        batch = max(1, min(_BATCH_PICTURES, _BATCH_PIXELS // math.prod(video.small_size_px)))
        for frames in one_ahead(video.small(batch)):
            follower.add(frames.times_s, frames.pixels)
        follower.finish()
        yield follower.looks, video.full


def small_height_px(found: media.Probe, params: FaceParams) -> int:
    """The height to which pictures are decoded for searching: the smallest face keeps what P-Net sees of it."""
    height = _height_px(found)
    smallest = search_px(smallest_face_px(found, params))
    return min(height, max(_SMALL_HEIGHT_PX, math.ceil(height * CELL_PX / smallest) + 1))


def smallest_face_px(found: media.Probe, params: FaceParams) -> float:
    """The side of the smallest face that is looked for in the full pictures."""
    height = _height_px(found)
    return max(params.min_face_px, _SMALLEST_SHARE * min(height, height * found.width_px / found.height_px))


def _height_px(found: media.Probe) -> int:
    return min(found.height_px, media.MAX_FRAME_HEIGHT_PX)


def small_every(found: media.Probe) -> int:
    """Each so manieth picture is followed in the stage: FOLLOW_HZ of them a second."""
    return max(1, round(found.fps / FOLLOW_HZ))


def new_follower(found: media.Probe, params: FaceParams, *, networks: Networks) -> Follower:
    """For pictures of `small_height_px`; its boxes are those of the full pictures."""
    shrunk = small_height_px(found, params) / _height_px(found)
    mtcnn = Mtcnn(search_px(smallest_face_px(found, params)), networks)
    return Follower(mtcnn, min_probability=params.min_probability, shrunk=shrunk)


@contextmanager
def _search_every(
    path: Path,
    times_s: NDArray[np.float64],
    windows: ClipWindows,
    params: FaceParams,
    *,
    found: media.Probe,
    networks: Networks,
) -> Iterator[_Seen]:
    """Searches each of the pictures that may be cut, in full resolution; following tells where the scenes end.

    A picture between the last that was followed in one scene and the first in the next may be of either: it shows none.
    """
    with _follow(path, times_s, windows, params, found=found, networks=networks) as (followed, full):
        detector, looks = Mtcnn(smallest_face_px(found, params), networks), list[Look]()
        known_s, scenes = np.array([look.time_s for look in followed]), [look.scene for look in followed]
        for first in range(0, len(times_s), _BATCH_PICTURES):
            frames = full(first, first + _BATCH_PICTURES)
            after = np.searchsorted(known_s, frames.times_s - 1e-6).clip(max=len(scenes) - 1)
            before = (np.searchsorted(known_s, frames.times_s + 1e-6) - 1).clip(min=0)
            for time_s, faces, i, j in zip(
                times_s[first:], detector.detect(frames.pixels), before, after, strict=False
            ):
                looks.append(Look(float(time_s), faces if scenes[i] == scenes[j] else faces.take([]), scenes[i]))
        yield looks, lambda first, last: media.Frames(times_s[first:last], full(first, last).pixels)


def _choose(tracks: list[Track], presence: NDArray[np.float64], params: FaceParams) -> dict[int, int]:
    """{window: a track's number}: of those that are present (tracks, windows) in it enough, the clip's weightiest.

    One window shows one person; where the scene changes, the next window may show another track.
    """
    order = sorted(range(len(tracks)), key=lambda k: -tracks[k].weight)
    chosen = {}
    for window, shares in enumerate(presence.T):
        enough = [k for k in order if shares[k] >= params.min_presence]
        if enough:
            chosen[window] = enough[0]
    if not chosen:
        raise media.MediaError(
            f"no face is seen for long enough: in {presence.max():.0%} of a window's pictures at most, at least "
            f"{params.min_presence:.0%} needed ({_PERHAPS_TURNED})"
        )
    return chosen


def _refuse_turned(
    cut: dict[int, dict[str, NDArray[Any]]], where: NDArray[np.int64], full: _Full, mtcnn: Mtcnn
) -> None:
    """Raises MediaError where the faces that were cut stand on their side or head."""
    seen = [(w, f) for w, window in cut.items() for f in np.flatnonzero(window["probabilities"])]
    some = [seen[i] for i in np.linspace(0, len(seen) - 1, min(len(seen), _UPRIGHT_LOOKS)).round().astype(int)]
    if some:
        frames = [full(number, number + 1).pixels[0] for number in (int(where[w, f]) for w, f in some)]
        turns = quarter_turns(mtcnn, frames, np.stack([cut[w]["boxes"][f] for w, f in some]).astype(float))
        if turns:
            raise media.MediaError(f"the face is turned by {90 * turns} degrees clockwise, with no tag to say so")


def _persons(tracks: list[Track]) -> NDArray[np.bool_]:
    """(tracks,) those that last; all where none does."""
    lasting = np.array([track.times_s[-1] - track.times_s[0] >= _PERSON_S for track in tracks])
    return lasting if lasting.any() else ~lasting


def _cut_window(
    track: Track, where: NDArray[np.int64], full: _Full, ends_s: tuple[float, float], params: FaceParams
) -> dict[str, NDArray[Any]]:
    """One window's arrays. `where`: the numbers of its pictures; one that is shown twice is cut once.

    ends_s: the first and last look; a picture behind the last one shows what that showed.
    """
    first, last = int(where.min()), int(where.max()) + 1
    frames = full(first, last)
    smooth_s = SMOOTH_S if params.search == "follow" else 0.0
    faces, seen = track.at(frames.times_s, smooth_s=smooth_s), track.seen_at(np.clip(frames.times_s, *ends_s))
    crops = [
        cut_crop(pixels, pose, size_px=params.size_px, margin=params.margin)
        for pixels, pose in zip(frames.pixels, poses(faces, params.align), strict=True)
    ]
    # Beyond the track's ends there may be another person: what is shown there is the track's nearest picture.
    times = frames.times_s
    shown = seen | ((times > track.times_s[0]) & (times < track.times_s[-1])) | ~seen.any()
    held = np.abs(times[:, None] - np.where(shown, times, np.inf)).argmin(axis=1)[where - first]
    return {
        "crops": np.stack(crops)[held],
        "boxes": faces.boxes[held].astype(np.float32),
        "probabilities": np.where(seen, faces.probabilities, 0)[where - first].astype(np.float32),
        "landmarks": faces.landmarks[held].astype(np.float32),
    }


def _by_torch(params: Params) -> Networks:
    from pipeline.faces.networks import torch_networks  # noqa: PLC0415 - an extra, and seconds

    return torch_networks(device_of(params.compute))
