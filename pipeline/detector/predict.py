"""Command `predict`: new files, scored by a trained run."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache_schemas.run import NETWORKS, NetworkName, RetrainRun, read_run
from pipeline import media
from pipeline.compute.machine import device_of
from pipeline.compute.workers import TasksLostError, run_tasks
from pipeline.detector.road import DetectorError, Road, Walked
from pipeline.params import ComputeParams, Params
from pipeline.runs.kept import kept_evidence
from pipeline.runs.scoring import scores_of, trained_network
from pipeline.runs.unlike import MODALITIES, vectors
from pipeline.statistics.answers import Answer, answer, cannot_tell
from pipeline.workspace import Workspace

_DEADLY = "each process that took it died: it needs too much memory, or a decoder crashes on it"


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


class Detector:
    """A trained run, loaded once for any number of files. Several threads may ask it at once, with the same answers."""

    def __init__(self, workspace: Workspace, compute: ComputeParams) -> None:
        """Raises RunFileError where the run is not finished, DetectorError where its backbones are others today."""
        run = read_run(workspace.retrain / "retrain.json", RetrainRun)
        self._evidence, self._familiar = kept_evidence(workspace)
        params = Params.model_validate(run.params).model_copy(update={"compute": compute})
        self._road, self._device = Road(params, run.backbones), device_of(compute)
        self._networks = [
            (entry.network, trained_network(workspace, entry).to(self._device).eval()) for entry in run.entries
        ]
        if "fusion" not in dict(self._networks):
            raise DetectorError(f"{workspace.retrain} has no network of both modalities: run `bmnas search` again")

    def score(self, video: Path) -> Prediction:
        """The file's answer; of one that cannot be scored, why: nothing about a file raises an error."""
        try:
            walked = self._road.walk(video)
            return self._judged(str(video), walked)
        except media.MediaError as error:
            reason = str(error)
        except Exception as error:  # one bad file never stops the others, however it is bad
            reason = f"unexpected {type(error).__name__}: {error}"
        return unscored(video, reason)

    def _judged(self, path: str, walked: Walked) -> Prediction:
        scores: dict[NetworkName, list[NDArray[np.float64]]] = {}
        for name, network in self._networks:
            scores.setdefault(name, []).append(scores_of(network, walked.layers, self._device))
        known = {"face_share": walked.face_share, "speech_s": walked.speech_s} | self._distances(walked)
        said = {name: self._said(name, np.array(scores.get(name, [])), known) for name in NETWORKS}
        fusion = np.array(scores["fusion"])
        quantities = known | {"spread": _spread(fusion)}
        return Prediction(
            path,
            float(fusion.mean()),
            tuple(map(WindowScore, walked.starts_s, fusion.mean(axis=0).tolist())),
            answer=said.pop("fusion"),
            modalities={str(name): each for name, each in said.items()},
            quantities={name: value if math.isfinite(value) else None for name, value in quantities.items()},
        )

    def _distances(self, walked: Walked) -> dict[str, float]:
        """{<modality>_distance: the median of its windows}, NaN where there is none."""
        found = {}
        for modality in MODALITIES:
            there = modality in self._familiar and (modality != "audio" or walked.has_audio)
            found[f"{modality}_distance"] = math.nan
            if there:
                familiar = self._familiar[modality]
                distances = familiar.gaussian.distances(vectors(walked.layers, familiar.layers))
                found[f"{modality}_distance"] = float(np.median(distances))
        return found

    def _said(self, network: NetworkName, scores: NDArray[np.float64], known: Mapping[str, float]) -> Answer:
        """What one network says; scores: (seeds, windows)."""
        if not len(scores):
            return cannot_tell("no such network was trained")
        if network in self._evidence.systems:
            return answer(float(scores.mean()), {**known, "spread": _spread(scores)}, self._evidence.systems[network])
        why = self._evidence.undefined.get(network, "evaluate did not score it")
        return cannot_tell(why, score=float(scores.mean()))


def unscored(video: Path, reason: str) -> Prediction:
    """The prediction that says why there is none."""
    return Prediction(str(video), None, reason=reason, answer=cannot_tell(reason))


def predict(workspace: Workspace, videos: Iterable[Path], compute: ComputeParams) -> Iterator[Prediction]:
    """Yields a prediction a file as soon as it is there: in order by one process, in any order by several.

    The run's own parameters decide how the files are cut and what features they get; compute: how many processes work
    on them. Raises as `Detector`.
    """
    if compute.workers == 1 and not compute.scheduler:
        detector = Detector(workspace, compute)
        yield from map(detector.score, videos)
        return
    kept_evidence(workspace)  # what is missing is said before workers start
    tasks = [_Task(workspace.root.resolve(), compute, str(video), video.absolute()) for video in videos]
    try:
        for _, prediction in run_tasks(_score, tasks, compute):
            yield prediction
    except TasksLostError as error:
        yield from (unscored(Path(task.name), _DEADLY) for task in error.tasks)


@dataclass(frozen=True)
class _Task:
    """One file. Paths are absolute: the worker may have started in another folder."""

    root: Path
    compute: ComputeParams
    name: str
    video: Path


def _score(task: _Task) -> Prediction:
    return replace(_detector(task.root, task.compute).score(task.video), path=task.name)


@functools.lru_cache(maxsize=1)
def _detector(root: Path, compute: ComputeParams) -> Detector:
    return Detector(Workspace(root), compute)


def _spread(scores: NDArray[np.float64]) -> float:
    """Largest minus smallest mean of (seeds, windows); NaN for one seed."""
    return float(np.ptp(scores.mean(axis=1))) if len(scores) > 1 else math.nan
