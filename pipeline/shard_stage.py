"""What `spectrograms` and `faces` have in common: clips in, shards out, resumable, bad clips to quarantine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache_schemas.manifest import Clip, Quarantined, write_quarantine
from cache_schemas.shards import ClipEntry, ClipResult, ShardSchema, prune_shards, scan_shards, write_shard
from pipeline import media
from pipeline.params import Params
from pipeline.workers import console, progress_bar, run_tasks
from pipeline.workspace import Workspace

CLIPS_PER_SHARD = 8
"""One task, and what a killed worker loses at most."""


class StageError(RuntimeError):
    """A stage's work failed; the message says what to look at."""


@dataclass(frozen=True)
class ClipJob:
    """One clip's share of a stage; `plan` names everything about it that the stage's key does not."""

    clip: Clip
    plan: str
    inputs: Any = None


@dataclass(frozen=True)
class _ShardTask:
    folder: Path
    schema: ShardSchema
    key: str
    jobs: tuple[ClipJob, ...]
    root: Path
    process: Callable[[ClipJob, Path, Params], ClipResult]
    params: Params


def run_shard_stage(
    folder: Path,
    schema: ShardSchema,
    key: str,
    jobs: list[ClipJob],
    process: Callable[[ClipJob, Path, Params], ClipResult],
    *,
    workspace: Workspace,
    params: Params,
) -> dict[str, ClipEntry]:
    """{clip_id: where its windows lie}, for the clips that went well.

    `process` (a module's function) turns one job and its file into a result. Raises StageError when more
    clips than `max_failed_fraction` fail.
    """
    done = scan_shards(folder, schema, key)
    pending = [job for job in jobs if (job.clip.clip_id, job.plan) not in done]
    root = Path(params.data.root).resolve()
    tasks = [
        _ShardTask(folder.resolve(), schema, key, tuple(pending[i : i + CLIPS_PER_SHARD]), root, process, params)
        for i in range(0, len(pending), CLIPS_PER_SHARD)
    ]
    with progress_bar(schema.stage, total=len(jobs), unit="clips") as advance:
        advance(len(jobs) - len(pending))
        for task, _ in run_tasks(_run_shard, tasks, params.compute):
            advance(len(task.jobs))
    entries = scan_shards(folder, schema, key)
    found = {job.clip.clip_id: entries[job.clip.clip_id, job.plan] for job in jobs}
    prune_shards(folder, {entry.path for entry in found.values()})
    failed = [
        Quarantined(job.clip.clip_id, job.clip.path, schema.stage, found[job.clip.clip_id].reason)
        for job in jobs
        if found[job.clip.clip_id].reason
    ]
    quarantine = workspace.quarantine(schema.stage)
    write_quarantine(quarantine, failed)
    console.print(
        f"{schema.stage}: {len(jobs)} clips: {len(jobs) - len(pending)} already done, {len(pending)} computed; "
        f"{len(failed)} in quarantine"
    )
    if len(failed) > params.max_failed_fraction * len(jobs):
        raise StageError(
            f"{schema.stage}: {len(failed)} of {len(jobs)} clips failed, more than max_failed_fraction "
            f"{params.max_failed_fraction:g}; the reasons are in {quarantine}"
        )
    return {clip_id: entry for clip_id, entry in found.items() if not entry.reason}


def _run_shard(task: _ShardTask) -> None:
    results = [_process(task, job) for job in task.jobs]
    write_shard(task.folder, task.schema, task.key, results)


def _process(task: _ShardTask, job: ClipJob) -> ClipResult:
    try:
        return task.process(job, media.inside(task.root, job.clip.file_name), task.params)
    except media.MediaError as error:
        reason = str(error)
    except Exception as error:  # one bad file never stops a run, however it is bad
        reason = f"unexpected {type(error).__name__}: {error}"
    return ClipResult(job.clip.clip_id, job.plan, reason=reason)
