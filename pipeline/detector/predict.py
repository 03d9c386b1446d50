"""Command `predict`: new files down the same road, scored by a trained run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cache_schemas.features import FeatureCache
from cache_schemas.files import file_sha256
from cache_schemas.manifest import Clip, read_quarantine, write_manifest
from cache_schemas.paths import path_text
from cache_schemas.run import RetrainRun, read_run
from pipeline.backbones import bare_identity
from pipeline.compute.machine import device_of
from pipeline.compute.workers import session
from pipeline.faces.stage import build_faces
from pipeline.features.stage import build_features
from pipeline.params import ComputeParams, Params
from pipeline.runs.scoring import score_windows
from pipeline.shards.stage import StageError
from pipeline.sound.stage import build_spectrograms
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class WindowScore:
    """P(fake) of one window: the mean over the run's seeds."""

    start_s: float
    score: float


@dataclass(frozen=True)
class Prediction:
    """One file's scores; `score` is the mean over its windows, None with a `reason` where it cannot be scored."""

    path: str
    score: float | None
    windows: tuple[WindowScore, ...] = ()
    reason: str = ""


def predict(workspace: Workspace, videos: Sequence[Path], compute: ComputeParams) -> list[Prediction]:
    """One prediction per file, in order, by the searched networks that `workspace` holds.

    The run's own parameters decide how the files are cut and what features they get. Raises StageError when the
    backbones are not those that the networks were trained on.
    """
    run = read_run(workspace.retrain / "retrain.json", RetrainRun)
    trained = Params.model_validate(run.params)
    params = trained.model_copy(
        update={
            "compute": compute,
            "data": trained.data.model_copy(update={"root": "/"}),
            "features": trained.features.model_copy(update={"views": 1}),
            "max_failed_fraction": 1.0,
        }
    )
    reasons: dict[Path, str] = {}
    clips: dict[Path, Clip] = {}
    for video in videos:
        try:
            clips[video] = _clip(video)
        except OSError as error:
            reasons[video] = f"the file cannot be read ({error.strerror})"
    scores: dict[str, tuple[WindowScore, ...]] = {}
    if clips:
        with TemporaryDirectory(prefix="bmnas-predict-") as folder, session(compute):
            scores, failed = _score(Workspace(Path(folder)), list(clips.values()), params, run, workspace)
            reasons |= {video: failed[clip.clip_id] for video, clip in clips.items() if clip.clip_id in failed}
    return [
        _prediction(video, scores.get(clips[video].clip_id if video in clips else "", ()), reasons) for video in videos
    ]


def _clip(video: Path) -> Clip:
    """A clip without labels: the stages look at nothing else of it."""
    path = video.resolve(strict=True)
    clip_id = file_sha256(path)[:16]
    return Clip(
        clip_id, path_text(path.relative_to("/").as_posix()), "predict", clip_id, "", "", 0, 0, 0, "RVRA", "unknown",
        "test", path.stat().st_size,
    )  # fmt: skip


def _score(
    scratch: Workspace, clips: list[Clip], params: Params, run: RetrainRun, trained: Workspace
) -> tuple[dict[str, tuple[WindowScore, ...]], dict[str, str]]:
    """({clip_id: its windows' scores}, {clip_id: why not})."""
    unique = list({clip.clip_id: clip for clip in clips}.values())
    write_manifest(scratch.manifest, unique)
    usable = build_spectrograms(scratch, params)
    if usable:
        usable = build_faces(scratch, params)
    failed = _quarantined(scratch, "spectrograms") | _quarantined(scratch, "faces")
    if not usable:
        return {}, failed
    try:
        cache: FeatureCache = build_features(scratch, params)
    except StageError:
        refused = _quarantined(scratch, "features")
        if not refused:
            raise
        return {}, failed | refused
    failed |= _quarantined(scratch, "features")
    made, trained_on = (
        [bare_identity(of) for of in b.values()] for b in (cache.attributes["backbones"], run.backbones)
    )
    if made != trained_on:
        raise StageError(
            "predict: the backbones' weights are not those that the networks were trained on; "
            "restore them, or run `dvc repro` again"
        )
    features, device = cache.load(), device_of(params.compute)
    fusion = [entry for entry in run.entries if entry.network == "fusion"]
    mean = np.mean([score_windows(trained, entry, features, device) for entry in fusion], axis=0)
    rows = cache.index.assign(score=mean)
    return {
        str(clip_id): tuple(
            WindowScore(float(start), float(score)) for start, score in zip(of["start_s"], of["score"], strict=True)
        )
        for clip_id, of in rows.groupby("clip_id", sort=False)
    }, failed


def _quarantined(scratch: Workspace, stage: str) -> dict[str, str]:
    """{clip_id: why the stage left it out}."""
    return {row.clip_id: row.reason for row in read_quarantine(scratch.quarantine(stage))}


def _prediction(video: Path, windows: tuple[WindowScore, ...], reasons: dict[Path, str]) -> Prediction:
    if not windows:
        return Prediction(str(video), None, reason=reasons[video])
    return Prediction(str(video), float(np.mean([window.score for window in windows])), windows)
