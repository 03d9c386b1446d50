"""What `spectrograms` and `faces` have in common: clips in, shards out, resumable, bad clips to quarantine."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

from cache_schemas.manifest import Clip, Quarantined, commonest, read_quarantine, write_quarantine
from cache_schemas.shards import (
    ClipEntry,
    ClipResult,
    ShardSchema,
    scan_shards,
    shard_entries,
    stale_files,
    write_shard,
)
from pipeline import media
from pipeline.compute.ahead import TaskThreads
from pipeline.compute.errand import Needs, fetched, hand_over, here, take_over, writing
from pipeline.compute.progress import Advance, console, progress_bar
from pipeline.compute.store import StoreError
from pipeline.compute.workers import TasksLostError, run_tasks, session, threads_per_worker
from pipeline.params import ComputeParams, Params
from pipeline.workspace import Workspace

CLIPS_PER_SHARD = 8
"""One task, and what a killed worker loses at most."""
BYTES_PER_SHARD = 32 << 20
"""Of media: a task of long or large clips has fewer, so that it, too, takes well under a minute."""
_DEADLY = "each process that took it died: it needs too much memory, or a decoder crashes on it"


class StageError(RuntimeError):
    """A stage's work failed; the message says what to look at."""


@dataclass(frozen=True)
class ClipJob:
    """One clip's share of a stage; `plan` names everything about it that the stage's key does not."""

    clip: Clip
    plan: str
    inputs: Any = None

    @property
    def name(self) -> tuple[str, str]:
        """By which shards know it."""
        return self.clip.clip_id, self.plan


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


@dataclass
class _Outcome:
    """What tasks came to."""

    clips: int = 0
    media_s: float = 0.0
    shards: list[Path] = field(default_factory=list)
    passing: dict[str, str] = field(default_factory=dict)
    """{clip_id: reason} of the clips that no shard tells of: it may be otherwise next time."""

    def add(self, other: _Outcome) -> None:
        """Takes in what another task came to."""
        self.clips += other.clips
        self.media_s += other.media_s
        self.shards += other.shards
        self.passing |= other.passing

    def per(self, seconds: float) -> str:
        """Throughput in words."""
        seconds = max(seconds, 1e-3)
        real_time = f", {self.media_s / seconds:.3g}x real time" if self.media_s else ""  # what failed has no length
        return f"{self.clips / seconds:.3g} clips/s{real_time}"


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
    retry: bool = False,
    prune: bool = False,
) -> dict[str, ClipEntry]:
    """{clip_id: where its windows lie}, for the clips that went well.

    `process` (a module's function) turns one job and its file into a result. A worker with cores to spare runs it on
    `most_at_once` clips at once, in threads: one waits for its decoder while another computes. refuse: why the
    parameters leave out a clip that went well, or ""; no part of what is computed.

    What a clip's content decided is kept in shards, good or bad; whatever else failed is tried again in the next run.
    retry: also what the content decided against. prune: when all is well, the shards that this run has no use for are
    deleted; else those of other parameters and clips stay. Raises StageError when more clips than
    `max_failed_fraction` fail.
    """
    folder = folder.resolve()  # one name for a shard, whoever wrote it from wherever
    take_over(folder, params.compute)
    done = scan_shards(folder, schema, key)
    pending = [job for job in jobs if job.name not in done or (retry and done[job.name].reason)]
    new = _Outcome()
    if pending:
        killers = {row.clip_id for row in read_quarantine(workspace.quarantine(schema.stage)) if _DEADLY in row.reason}
        root = Path(params.data.root).resolve()
        task = _ShardTask(folder, schema, key, (), root, process, params, most_at_once)
        with (
            session(params.compute),
            progress_bar(schema.stage, total=len(jobs), unit="clips", done=len(jobs) - len(pending)) as advance,
        ):
            new = _compute(task, pending, killers, advance)
    for entry in (entry for path in new.shards for entry in shard_entries(path, schema, key)):
        done[entry.clip_id, entry.plan] = entry
    lost = f"its result is not there: do all workers see {folder}? If not, name a store that they see (--store)"
    found = {job.clip.clip_id: done[job.name] for job in jobs if job.name in done}
    reasons = {clip_id: entry.reason or refuse(entry) for clip_id, entry in found.items()}
    again = {job.clip.clip_id for job in jobs} - found.keys()
    reasons |= {clip_id: f"{new.passing.get(clip_id, lost)} (tried again in the next run)" for clip_id in again}
    computed = f"{len(jobs) - len(pending)} already done, {len(pending)} computed"
    _judge(schema.stage, jobs, reasons, computed, again=len(again), workspace=workspace, params=params)
    _give_back(folder, schema.stage, {entry.path for entry in found.values()}, prune=prune)
    return {clip_id: entry for clip_id, entry in found.items() if not reasons[clip_id]}


def _compute(task: _ShardTask, jobs: list[ClipJob], killers: Collection[str], advance: Advance) -> _Outcome:
    """What becomes of the jobs, each as `task` says; killers: clips that killed whoever took them in an earlier run."""
    groups = group_jobs([job for job in jobs if job.clip.clip_id not in killers])
    at_once = min(task.at_once, threads_per_worker(task.params.compute, max(1, len(groups))))
    tasks = [replace(task, jobs=group, at_once=at_once) for group in groups]
    last = [replace(task, jobs=(job,), at_once=1) for job in jobs if job.clip.clip_id in killers]
    return _run_all(tasks, last, task.params.compute, advance)


def _judge(
    stage: str,
    jobs: list[ClipJob],
    reasons: Mapping[str, str],
    computed: str,
    *,
    again: int,
    workspace: Workspace,
    params: Params,
) -> None:
    """Writes the quarantine list and says what came out; raises StageError when too many clips failed."""
    failed = [
        Quarantined(job.clip.clip_id, job.clip.path, stage, reasons[job.clip.clip_id])
        for job in jobs
        if reasons[job.clip.clip_id]
    ]
    quarantine = workspace.quarantine(stage)
    write_quarantine(quarantine, failed)
    console.print(f"{stage}: {len(jobs)} clips: {computed}; {len(failed)} in quarantine")
    if again:
        console.print(
            f"{stage}: {again} clips failed for what may pass; `bmnas {stage}` tries them again, and so does "
            f"`dvc repro --single-item --force {stage}`",
            soft_wrap=True,
        )
    if len(failed) > params.max_failed_fraction * len(jobs):
        raise StageError(
            f"{stage}: {len(failed)} of {len(jobs)} clips failed, more than max_failed_fraction "
            f"{params.max_failed_fraction:g}; {commonest(failed)}; all reasons are in {quarantine}"
        )


def _give_back(folder: Path, stage: str, used: set[Path], *, prune: bool) -> None:
    """Deletes the shards that are not used, or says that they are kept."""
    stale = stale_files(folder, used)
    size = sum(path.stat().st_size for path in stale) / 1e6
    if prune:
        for path in stale:
            path.unlink()
    if stale:
        told = "deleted" if prune else f"kept: `bmnas {stage} --prune` deletes them"
        console.print(
            f"{stage}: {len(stale)} shards ({size:.1f} MB) of other parameters or clips {told}", soft_wrap=True
        )


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


def _run_all(tasks: list[_ShardTask], last: list[_ShardTask], compute: ComputeParams, advance: Advance) -> _Outcome:
    """Every task, whatever becomes of its workers: clips that kill theirs are found out.

    last: tasks of one clip each, to be done one after the other.
    """
    begin, total = time.monotonic(), _Outcome()

    def run(chosen: list[_ShardTask]) -> list[_ShardTask]:
        try:
            for task, outcome in run_tasks(_run_shard, chosen, compute, needs=_needs):
                total.add(outcome)
                advance(len(task.jobs), total.per(time.monotonic() - begin))
        except TasksLostError as error:
            return error.tasks
        return []

    lost = run([replace(task, jobs=(job,)) for task in run(tasks) for job in task.jobs])
    for task in [again for one in (*lost, *last) for again in run([one])]:  # alone, no neighbour's death is its own
        total.passing |= {job.clip.clip_id: _DEADLY for job in task.jobs}
        advance(len(task.jobs))
    return total


def _names(clip: Clip) -> list[str]:
    """Of its files."""
    return [name for name in (clip.file_name, clip.audio_file_name) if name]


def _needs(task: _ShardTask) -> Needs:
    names = [name for job in task.jobs for name in _names(job.clip)]
    return {task.root / name: partial(_opened, task.root, name) for name in names}


def _opened(root: Path, name: str) -> FileIO:
    return media.open_regular(media.inside(root, name))


def _run_shard(task: _ShardTask) -> _Outcome:
    with TaskThreads(task.at_once) as pool:
        found = list(pool.map(partial(_process, task), task.jobs))
    results = [result for result in found if isinstance(result, ClipResult)]
    passing = {job.clip.clip_id: told for job, told in zip(task.jobs, found, strict=True) if isinstance(told, str)}
    shards = []
    if results:
        try:
            with writing():
                shard = task.folder / write_shard(here(task.folder), task.schema, task.key, results).name
            hand_over(shard)
            shards.append(shard)
        except StoreError as error:
            passing |= {result.clip_id: str(error) for result in results}
    window_s = task.params.windows.window_s  # what is not known to have been read to its end was read by windows
    media_s = sum(float(result.info.get("duration_s", window_s * len(result.starts_s))) for result in results)
    return _Outcome(len(found), media_s, shards, passing)


def _process(task: _ShardTask, job: ClipJob) -> ClipResult | str:
    """What the clip's content gives, which may be a reason; or what else was in the way, in words."""
    clip = job.clip
    try:
        for name in _names(clip):
            fetched(task.root / name)
        with media.one_file():
            path, *sound = (media.inside(here(task.root), name) for name in _names(clip))
            size = sum(media.check_file(each) for each in (path, *sound))
            if size != clip.file_bytes:
                return f"the file has {size} bytes, {clip.file_bytes} when `bmnas manifest` saw it: run that again"
            return task.process(job, path, task.params)
    except (media.PassingError, StoreError) as error:
        return str(error)
    except media.MediaError as error:
        return ClipResult(clip.clip_id, job.plan, reason=str(error))
    except Exception as error:  # one bad file never stops a run, however it is bad
        return f"unexpected {type(error).__name__}: {error}"
