"""Command `predict`: new files down the same road, scored by a trained run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from cache_schemas.evidence import Evidence
from cache_schemas.features import FeatureCache
from cache_schemas.files import file_sha256
from cache_schemas.manifest import Clip, read_quarantine, write_manifest
from cache_schemas.paths import path_text
from cache_schemas.run import NETWORKS, NetworkName, RetrainRun, read_run
from pipeline.backbones import bare_identity
from pipeline.compute.machine import device_of
from pipeline.compute.workers import session
from pipeline.faces.stage import build_faces
from pipeline.features.shown import shown_and_heard
from pipeline.features.stage import build_features
from pipeline.params import ComputeParams, Params
from pipeline.runs.evidence import clip_quantities, kept_evidence
from pipeline.runs.scoring import score_windows
from pipeline.shards.stage import StageError
from pipeline.sound.stage import build_spectrograms
from pipeline.statistics.answers import Answer, answers, cannot_tell
from pipeline.statistics.limits import scored_clips
from pipeline.statistics.systems import FUSION
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class WindowScore:
    """P(fake) of one window: the mean over the run's networks."""

    start_s: float
    score: float


@dataclass(frozen=True)
class Prediction:
    """One file's answer, by all it shows and sounds; `modalities`: the answers by the picture and by the sound alone.

    score: the mean over its windows, evidence of nothing by itself, None with a `reason` where it cannot be scored. The
    quantities are those of `pipeline.statistics.limits`.
    """

    path: str
    score: float | None
    windows: tuple[WindowScore, ...] = ()
    reason: str = ""
    answer: Answer = field(default_factory=cannot_tell)
    modalities: dict[str, Answer] = field(default_factory=dict)
    quantities: dict[str, float | None] = field(default_factory=dict)


def predict(workspace: Workspace, videos: Sequence[Path], compute: ComputeParams) -> list[Prediction]:
    """One prediction per file, in order, by the searched networks that `workspace` holds.

    The run's own parameters decide how the files are cut and what features they get. Raises StageError when the
    backbones are not those that the networks were trained on.
    """
    run = read_run(workspace.retrain / "retrain.json", RetrainRun)
    known = kept_evidence(workspace)
    trained = Params.model_validate(run.params)
    params = trained.model_copy(
        update={
            "compute": compute,
            "data": trained.data.model_copy(update={"root": "/"}),
            "features": trained.features.model_copy(update={"views": 1, "pseudo": 0, "random_control": False}),
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
    found: dict[str, Prediction] = {}
    if clips:
        with TemporaryDirectory(prefix="bmnas-predict-") as folder, session(compute):
            scratch = Workspace(Path(folder))
            cache, failed = _features(scratch, list(clips.values()), params, run)
            reasons |= {video: failed[clip.clip_id] for video, clip in clips.items() if clip.clip_id in failed}
            if cache is not None:
                quantities = clip_quantities(cache, known[1], shown_and_heard(scratch, params))
                found = _answered(_scores(workspace, run, cache, params), quantities, known[0])
    return [
        replace(found[clips[video].clip_id], path=str(video))
        if video in clips and clips[video].clip_id in found
        else Prediction(str(video), None, reason=reasons[video], answer=cannot_tell(reasons[video]))
        for video in videos
    ]


def _clip(video: Path) -> Clip:
    """A clip without labels: the stages look at nothing else of it."""
    path = video.resolve(strict=True)
    clip_id = file_sha256(path)[:16]
    return Clip(
        clip_id, path_text(path.relative_to("/").as_posix()), "predict", clip_id, "", "", 0, 0, 0, "RVRA", "unknown",
        "test", path.stat().st_size,
    )  # fmt: skip


def _features(
    scratch: Workspace, clips: list[Clip], params: Params, run: RetrainRun
) -> tuple[FeatureCache | None, dict[str, str]]:
    """(the features of those that have any, {clip_id: why one has none})."""
    unique = list({clip.clip_id: clip for clip in clips}.values())
    write_manifest(scratch.manifest, unique)
    usable = build_spectrograms(scratch, params)
    if usable:
        usable = build_faces(scratch, params)
    failed = _quarantined(scratch, "spectrograms") | _quarantined(scratch, "faces")
    if not usable:
        return None, failed
    try:
        cache: FeatureCache = build_features(scratch, params)
    except StageError:
        refused = _quarantined(scratch, "features")
        if not refused:
            raise
        return None, failed | refused
    failed |= _quarantined(scratch, "features")
    made, trained_on = (
        [bare_identity(of) for of in b.values()] for b in (cache.attributes["backbones"], run.backbones)
    )
    if made != trained_on:
        raise StageError(
            "predict: the backbones' weights are not those that the networks were trained on; "
            "restore them, or run `dvc repro` again"
        )
    return cache, failed


def _scores(trained: Workspace, run: RetrainRun, cache: FeatureCache, params: Params) -> pd.DataFrame:
    """A row per window, network and seed: clip_id, window, start_s, system, seed, score."""
    features, device = cache.load(), device_of(params.compute)
    windows = cache.index[["clip_id", "window", "start_s"]]
    return pd.concat(
        windows.assign(system=e.network, seed=e.seed, score=score_windows(trained, e, features, device))
        for e in run.entries
    )


def _answered(scores: pd.DataFrame, quantities: pd.DataFrame, evidence: Evidence) -> dict[str, Prediction]:
    """{clip_id: its prediction, without a path}."""
    said: dict[str, Mapping[str, Answer]] = {
        network: _said(network, quantities, scores, evidence) for network in NETWORKS
    }
    mean = scores[scores["system"] == FUSION].groupby(["clip_id", "start_s"], sort=False)["score"].mean()
    spread = scored_clips(quantities.reset_index(), scores, FUSION)["spread"]
    found = {}
    for clip_id, of in mean.groupby(level="clip_id", sort=False):
        windows = zip(of.index.get_level_values("start_s"), of, strict=True)
        known = {**quantities.loc[clip_id], "spread": spread[clip_id]}
        found[str(clip_id)] = Prediction(
            "",
            float(of.mean()),
            tuple(WindowScore(float(start), float(score)) for start, score in windows),
            answer=said[FUSION][str(clip_id)],
            modalities={name: of_all[str(clip_id)] for name, of_all in said.items() if name != FUSION},
            quantities={name: float(value) if np.isfinite(value) else None for name, value in known.items()},
        )
    return found


def _said(
    network: NetworkName, quantities: pd.DataFrame, scores: pd.DataFrame, evidence: Evidence
) -> Mapping[str, Answer]:
    """{clip_id: what one network says}."""
    if not (scores["system"] == network).any():
        return defaultdict(lambda: cannot_tell("no such network was trained"))
    table = scored_clips(quantities.reset_index(), scores, network)
    if network in evidence.systems:
        return answers(table, evidence.systems[network])
    why = evidence.undefined.get(network, "evaluate did not score it")
    return {str(clip_id): cannot_tell(why, score=float(score)) for clip_id, score in table["score"].items()}


def _quarantined(scratch: Workspace, stage: str) -> dict[str, str]:
    """{clip_id: why the stage left it out}."""
    return {row.clip_id: row.reason for row in read_quarantine(scratch.quarantine(stage))}
