"""What `spectrograms` and `faces` have in common: clips in, shards out, resumable, bad clips to quarantine."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cache_schemas.manifest import Clip, Quarantined, write_quarantine
from cache_schemas.shards import ClipEntry, ClipResult, ShardSchema, prune_shards, scan_shards, write_shard
from pipeline import media
from pipeline.compute.progress import Advance, console, progress_bar
from pipeline.compute.workers import TasksLostError, run_tasks, session, threads_per_worker
from pipeline.params import Params
from pipeline.workspace import Workspace

CLIPS_PER_SHARD = 8
"""One task, and what a killed worker loses at most."""
BYTES_PER_SHARD = 32 << 20
"""Of media: a task of long or large clips has fewer, so that it, too, takes well under a minute."""


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
    at_once: int


@dataclass(frozen=True)
class _Amount:
    """What a task has gone through."""

    clips: int = 0
    media_s: float = 0.0

    def __add__(self, other: _Amount) -> _Amount:
        return _Amount(self.clips + other.clips, self.media_s + other.media_s)

    def per(self, seconds: float) -> str:
        """Throughput in words."""
        seconds = max(seconds, 1e-3)
        return f"{self.clips / seconds:.3g} clips/s, {self.media_s / seconds:.3g}x real time"


def run_shard_stage(
    folder: Path,
    schema: ShardSchema,
    key: str,
    jobs: list[ClipJob],
    process: Callable[[ClipJob, Path, Params], ClipResult],
    *,
    workspace: Workspace,
    params: Params,
    most_at_once: int = 1,
    refuse: Callable[[ClipEntry], str] = lambda _: "",
) -> dict[str, ClipEntry]:
    """{clip_id: where its windows lie}, for the clips that went well.

    `process` (a module's function) turns one job and its file into a result. A worker with cores to spare runs it on
    `most_at_once` clips at once, in threads: one waits for its decoder while another computes. refuse: why the
    parameters leave out a clip that went well, or ""; no part of what is computed. Raises StageError when more clips
    than `max_failed_fraction` fail.
    """
    done = scan_shards(folder, schema, key)
    pending = [job for job in jobs if (job.clip.clip_id, job.plan) not in done]
    root = Path(params.data.root).resolve()
    if pending:
        groups = group_jobs(pending)
        done_before = len(jobs) - len(pending)
        with (
            session(params.compute),
            progress_bar(schema.stage, total=len(jobs), unit="clips", done=done_before) as advance,
        ):
            at_once = min(most_at_once, threads_per_worker(params.compute, len(groups)))
            tasks = [
                _ShardTask(folder.resolve(), schema, key, group, root, process, params, at_once) for group in groups
            ]
            _run_all(tasks, params, advance)
    entries = scan_shards(folder, schema, key) if pending else done
    found = {job.clip.clip_id: entries[job.clip.clip_id, job.plan] for job in jobs}
    prune_shards(folder, {entry.path for entry in found.values()})
    found = {clip_id: replace(entry, reason=entry.reason or refuse(entry)) for clip_id, entry in found.items()}
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


def group_jobs(jobs: list[ClipJob]) -> list[tuple[ClipJob, ...]]:
    """The jobs of each task, in order: at most CLIPS_PER_SHARD, and BYTES_PER_SHARD unless one clip has more."""
    groups: list[tuple[ClipJob, ...]] = []
    size = 0
    for job in jobs:
        size += job.clip.file_bytes
        if groups and len(groups[-1]) < CLIPS_PER_SHARD and size <= BYTES_PER_SHARD:
            groups[-1] = (*groups[-1], job)
        else:
            groups.append((job,))
            size = job.clip.file_bytes
    return groups


def _run_all(tasks: list[_ShardTask], params: Params, advance: Advance) -> None:
    """Every task, whatever becomes of its workers: clips that kill theirs are found out and recorded."""
    begin, total = time.monotonic(), _Amount()

    def run(chosen: list[_ShardTask]) -> list[_ShardTask]:
        nonlocal total
        try:
            for task, amount in run_tasks(_run_shard, chosen, params.compute):
                total += amount
                advance(len(task.jobs), total.per(time.monotonic() - begin))
        except TasksLostError as error:
            return error.tasks
        return []

    lost = run([replace(task, jobs=(job,)) for task in run(tasks) for job in task.jobs])
    for task in [again for alone in lost for again in run([alone])]:  # alone, nobody else's death is taken for its own
        reason = "each process that took it died: it needs too much memory, or a decoder crashes on it"
        dead = [ClipResult(job.clip.clip_id, job.plan, reason=reason) for job in task.jobs]
        write_shard(task.folder, task.schema, task.key, dead)
        advance(len(task.jobs))


def _run_shard(task: _ShardTask) -> _Amount:
    with ThreadPoolExecutor(task.at_once) as pool:
        results = list(pool.map(partial(_process, task), task.jobs))
    write_shard(task.folder, task.schema, task.key, results)
    window_s = task.params.windows.window_s  # what is not known to have been read to its end was read by windows
    media_s = sum(float(result.info.get("duration_s", window_s * len(result.starts_s))) for result in results)
    return _Amount(len(results), media_s)


def _process(task: _ShardTask, job: ClipJob) -> ClipResult:
    try:
        with media.one_file():
            return task.process(job, media.inside(task.root, job.clip.file_name), task.params)
    except media.MediaError as error:
        reason = str(error)
    except Exception as error:  # one bad file never stops a run, however it is bad
        reason = f"unexpected {type(error).__name__}: {error}"
    return ClipResult(job.clip.clip_id, job.plan, reason=reason)
