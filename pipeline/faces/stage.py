"""Stage `faces`: picture -> face tracks -> aligned square crops of every window, all of one person in each."""

from __future__ import annotations

from pathlib import Path

from cache_schemas.files import digest
from cache_schemas.manifest import read_manifest
from cache_schemas.media import FACES, read_windows
from cache_schemas.shards import ClipEntry, ClipResult
from cache_schemas.windows import ClipWindows
from pipeline.faces.clip import file_faces
from pipeline.params import Params
from pipeline.shards.stage import ClipJob, run_shard_stage
from pipeline.workspace import Workspace

_VERSION = 6  # raise it when the same parameters, or `pipeline.faces.clip`, give other values


def face_key(params: Params) -> str:
    """Names everything that a clip's crops depend on, besides the clip and its windows."""
    windows = params.windows
    return digest("faces", _VERSION, windows.window_s, windows.short_clip, params.faces.naming())


def build_faces(
    workspace: Workspace, params: Params, *, retry: bool = False, prune: bool = False
) -> dict[str, ClipEntry]:
    """{clip_id: where its crops lie}; writes shards and the quarantine list.

    retry, prune: as run_shard_stage has them.
    """
    windows = read_windows(workspace.windows)
    clips = [clip for clip in read_manifest(workspace.manifest) if clip.clip_id in windows]
    return run_shard_stage(
        workspace.faces,
        FACES.with_codec(params.faces.codec),
        face_key(params),
        [ClipJob(clip, windows_digest(windows[clip.clip_id]), windows[clip.clip_id]) for clip in clips],
        clip_faces,
        workspace=workspace,
        params=params,
        retry=retry,
        prune=prune,
    )


def windows_digest(windows: ClipWindows) -> str:
    """Names a clip's windows: other windows are other crops."""
    return digest(windows.starts_s, windows.available_s)


def clip_faces(job: ClipJob, path: Path, params: Params) -> ClipResult:
    """`file_faces` of one clip; job.inputs: its windows."""
    made = file_faces(path, job.inputs, params)
    return ClipResult(job.clip.clip_id, job.plan, made.starts_s, made.arrays, made.info)
