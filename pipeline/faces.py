"""Stage `faces`: picture -> one face track per clip -> aligned square crops of every window."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import facenet_pytorch
import numpy as np
from numpy.typing import NDArray

from cache_schemas.files import digest
from cache_schemas.manifest import read_manifest
from cache_schemas.media import FACES, ClipWindows, read_windows
from cache_schemas.shards import ClipEntry, ClipResult
from pipeline import media
from pipeline.params import FaceParams, Params
from pipeline.shard_stage import ClipJob, run_shard_stage
from pipeline.tracks import Detection, best_track, cut_crop, link_tracks
from pipeline.windows import frame_times
from pipeline.workers import device_of
from pipeline.workspace import Workspace

_VERSION = 1
"""Raise it when the same parameters give other values."""
_BATCH_PIXELS = 16_000_000
"""MTCNN holds a picture and its pyramid as floats, about 30 bytes a pixel."""


def face_key(params: Params) -> str:
    """Names everything that a clip's crops depend on, besides the clip and its windows."""
    windows = params.windows
    return digest("faces", _VERSION, windows.window_s, windows.short_clip, params.faces.model_dump())


def build_faces(workspace: Workspace, params: Params) -> dict[str, ClipEntry]:
    """{clip_id: where its crops lie}; writes shards and the quarantine list."""
    windows = read_windows(workspace.windows)
    clips = [clip for clip in read_manifest(workspace.manifest) if clip.clip_id in windows]
    return run_shard_stage(
        workspace.faces,
        FACES,
        face_key(params),
        [ClipJob(clip, windows_digest(windows[clip.clip_id]), windows[clip.clip_id]) for clip in clips],
        clip_faces,
        workspace=workspace,
        params=params,
    )


def windows_digest(windows: ClipWindows) -> str:
    """Names a clip's windows: other windows are other crops."""
    return digest(windows.starts_s, windows.available_s)


def clip_faces(job: ClipJob, path: Path, params: Params) -> ClipResult:
    """One clip's crops; raises MediaError when no window shows its face often enough."""
    windows: ClipWindows = job.inputs
    wanted = frame_times(windows, frames=params.faces.frames, params=params.windows)
    times, where = np.unique(wanted, return_inverse=True)
    where = where.reshape(wanted.shape)
    frames = media.read_frames(path, times.tolist()).pixels
    detections = detect_faces(frames, params.faces, device=device_of(params.compute))
    tracks = link_tracks(detections)
    if not tracks:
        raise media.MediaError(f"no face found in any of {len(frames)} pictures")
    track = best_track(tracks)
    presence = track.seen[where].mean(axis=1)
    kept = np.flatnonzero(presence >= params.faces.min_presence)
    if len(kept) == 0:
        raise media.MediaError(
            f"the face is seen in {track.seen.sum()} of {len(frames)} pictures only (min_presence "
            f"{params.faces.min_presence:g})"
        )
    poses = track.poses()
    used = np.unique(where[kept])
    crops = {i: cut_crop(frames[i], poses[i], size_px=params.faces.size_px, margin=params.faces.margin) for i in used}
    arrays: dict[str, NDArray[Any]] = {
        "crops": np.stack([np.stack([crops[i] for i in where[w]]) for w in kept]),
        "boxes": track.boxes[where[kept]].astype(np.float32),
        "probabilities": track.probabilities[where[kept]].astype(np.float32),
        "landmarks": track.landmarks[where[kept]].astype(np.float32),
    }
    starts = tuple(windows.starts_s[w] for w in kept)
    info = {"people": len(tracks), "presence": round(float(track.seen.mean()), 4)}
    return ClipResult(job.clip.clip_id, job.plan, starts, arrays, info)


def detect_faces(frames: NDArray[np.uint8], params: FaceParams, *, device: str) -> list[list[Detection]]:
    """Every frame's faces by facenet-pytorch's MTCNN, in batches; frames: (N, H, W, 3) uint8 RGB."""
    n_frames, height, width, _ = frames.shape
    if min(height, width) < params.min_face_px:  # MTCNN's pyramid would be empty, which it does not survive
        return [[] for _ in range(n_frames)]
    batch = max(1, min(32, _BATCH_PIXELS // (height * width)))
    found: list[list[Detection]] = []
    for i in range(0, n_frames, batch):
        boxes, probabilities, landmarks = _mtcnn(params.min_face_px, device).detect(
            frames[i : i + batch], landmarks=True
        )
        for b, p, points in zip(boxes, probabilities, landmarks, strict=True):
            faces = [] if b is None else zip(b, p, points, strict=True)
            found.append(
                [
                    Detection(np.asarray(box, float), float(prob), np.asarray(five, float))
                    for box, prob, five in faces
                    if prob is not None and prob >= params.min_probability
                ]
            )
    return found


@functools.cache
def _mtcnn(min_face_px: int, device: str) -> facenet_pytorch.MTCNN:
    return facenet_pytorch.MTCNN(keep_all=True, min_face_size=min_face_px, device=device)
