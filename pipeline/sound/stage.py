"""Stage `spectrograms`: sound -> windows -> spectrograms. The windows it plans are the picture's too."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cache_schemas.files import digest
from cache_schemas.manifest import Clip, read_manifest
from cache_schemas.media import SPECTROGRAMS, write_windows
from cache_schemas.shards import ClipEntry, ClipResult
from cache_schemas.windows import ClipWindows
from pipeline import media
from pipeline.compute.errand import here
from pipeline.params import Params, WindowParams
from pipeline.shards.stage import ClipJob, run_shard_stage
from pipeline.sound.clip import file_sound, no_sound_reason
from pipeline.workspace import Workspace

_VERSION = 6  # raise it when the same parameters, or `pipeline.sound.clip`, give other values


def spectrogram_key(params: Params) -> str:
    """Names everything that the spectrogram of a clip depends on, besides the clip."""
    return digest("spectrograms", _VERSION, params.windows.naming(), params.spectrograms.naming())


def build_spectrograms(
    workspace: Workspace, params: Params, *, retry: bool = False, prune: bool = False
) -> dict[str, ClipEntry]:
    """{clip_id: where its spectrograms lie}; writes shards, windows.csv and the quarantine list.

    retry, prune: as run_shard_stage has them.
    """
    clips = read_manifest(workspace.manifest)
    entries = run_shard_stage(
        workspace.spectrograms,
        SPECTROGRAMS,
        spectrogram_key(params),
        [ClipJob(clip, plan="", inputs=Path(params.data.root).resolve()) for clip in clips],
        clip_spectrograms,
        workspace=workspace,
        params=params,
        most_at_once=2,
        refuse=partial(why_left_out, params=params.windows),
        retry=retry,
        prune=prune,
    )
    windows = [ClipWindows(i, entry.starts_s, entry.info["available_s"]) for i, entry in entries.items()]
    write_windows(workspace.windows, windows)
    return entries


def why_left_out(entry: ClipEntry, *, params: WindowParams) -> str:
    """Why the parameters leave out a clip that went well, or ""."""
    why = no_sound_reason(entry.info, params)
    return why and f"{why} (missing_modality: quarantine)"


def clip_spectrograms(job: ClipJob, path: Path, params: Params) -> ClipResult:
    """`file_sound` of one clip; job.inputs: the data root, for sound that lies in a file of its own."""
    made = file_sound(path, params, audio=sound_file(here(job.inputs), job.clip), clip_id=job.clip.clip_id)
    return ClipResult(job.clip.clip_id, job.plan, made.starts_s, made.arrays, made.info)


def sound_file(root: Path, clip: Clip) -> Path | None:
    """The file with the clip's sound, None where that is the clip; raises MediaError when it lies outside the root."""
    return media.inside(root, clip.audio_file_name) if clip.audio_path else None
