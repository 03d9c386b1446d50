"""Command `predict`: new files, scored by a trained run."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cache_schemas.run import NETWORKS, NetworkName, RetrainRun, read_run
from pipeline import media
from pipeline.compute.workers import TasksLostError, run_tasks
from pipeline.detector.opened import open_bundle
from pipeline.detector.parts import load_parts
from pipeline.detector.prediction import Prediction, WindowScore, unscored
from pipeline.detector.road import DetectorError, Road, Walked
from pipeline.features.amounts import seconds_above
from pipeline.params import ComputeParams, Params
from pipeline.runs.kept import kept_evidence
from pipeline.runs.unlike import MODALITIES, vectors
from pipeline.statistics.answers import Answer, answer, cannot_tell
from pipeline.workspace import Workspace

LEAST_HOP_S = 0.1
_DEADLY = "each process that took it died: it needs too much memory, or a decoder crashes on it"


@dataclass(frozen=True)
class _Stretch:
    """What is kept of some windows of a file: numbers, whatever its length."""

    walked: Walked
    scores: Mapping[NetworkName, NDArray[np.float64]]
    """(seeds, windows)"""
    distances: Mapping[str, NDArray[np.float64]]
    """By modality, (windows,)"""


class Detector:
    """A trained run, loaded once for any number of files. Several threads may ask it at once, with the same answers."""

    def __init__(self, workspace: Workspace, compute: ComputeParams) -> None:
        """Raises RunFileError where the run is not finished, DetectorError where its backbones are others today."""
        run = read_run(workspace.retrain / "retrain.json", RetrainRun)
        self._evidence, self._familiar = kept_evidence(workspace)
        params = Params.model_validate(run.params).model_copy(update={"compute": compute})
        self._workspace, self._silence_db = workspace, params.windows.silence_db
        parts = load_parts(workspace, run, params)
        self._road, self._networks, self._compute = Road(params, parts), parts.networks, compute
        if "fusion" not in dict(self._networks):
            raise DetectorError(f"{workspace.retrain} has no network of both modalities: run `bmnas search` again")
        self._opened = ExitStack()

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str = "auto") -> Detector:
        """The detector in a bundle, or of a finished run: then `path` is its folder, `work` unless told otherwise.

        device: "auto", "cpu" or "cuda". Raises FileNotFoundError, BundleError or RunFileError where there is none,
        DetectorError where it cannot be used here, as when its backbones have other weights today.
        """
        place, compute = Path(path), ComputeParams.model_validate({"workers": 1, "device": device})
        with ExitStack() as stack:
            workspace = Workspace(place) if place.is_dir() else stack.enter_context(open_bundle(place))
            found = cls(workspace, compute)
            found._opened = stack.pop_all()
        return found

    def close(self) -> None:
        """Takes away the folder that a bundle was unpacked to; processes that start later would need it."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def score(self, video: str | os.PathLike[str], *, hop_s: float | None = None) -> Prediction:
        """The file's answer; of one that cannot be scored, why: nothing about a file raises an error.

        hop_s: a window begins every so many seconds of a file of any length (see `Road.walk`); None: where the run's
        own parameters say. Raises ValueError where that is no time.
        """
        if hop_s is not None and not hop_s >= LEAST_HOP_S:
            raise ValueError(f"hop_s = {hop_s}: a window begins every so many seconds, at least {LEAST_HOP_S:g}")
        path = Path(video)
        try:
            return self._judged(str(video), map(self._looked_at, self._road.walk(path, hop_s=hop_s)))
        except (media.MediaError, DetectorError) as error:
            reason = str(error)
        except Exception as error:  # one bad file never stops the others, however it is bad
            reason = f"unexpected {type(error).__name__}: {error}"
        return unscored(str(path), reason)

    def score_many(
        self, videos: Iterable[str | os.PathLike[str]], *, workers: int = 1, hop_s: float | None = None
    ) -> Iterator[Prediction]:
        """Yields a file's prediction as soon as it is there, as `score` gives it.

        workers: so many processes, each with a detector of its own, 0 one per core; their answers come in any order,
        known by their `path`. 1: in order, in this process.
        """
        if workers == 1:
            yield from (self.score(video, hop_s=hop_s) for video in videos)
        else:
            compute = self._compute.model_copy(update={"workers": workers})
            yield from predict(self._workspace, map(Path, videos), compute, hop_s=hop_s)

    def _looked_at(self, walked: Walked) -> _Stretch:
        scores: dict[NetworkName, list[NDArray[np.float64]]] = {}
        for name, network in self._networks:
            found = network(walked.layers)
            if not np.isfinite(found).all():  # no words and no JSON are for it
                raise DetectorError(f"a network of {name} gives no number: its weights are damaged, or made to be")
            scores.setdefault(name, []).append(found)
        distances = {
            modality: familiar.gaussian.distances(vectors(walked.layers, familiar.layers))
            for modality, familiar in self._familiar.items()
            if modality != "audio" or walked.has_audio
        }
        return _Stretch(replace(walked, layers={}), {name: np.array(of) for name, of in scores.items()}, distances)

    def _judged(self, path: str, looked_at: Iterable[_Stretch]) -> Prediction:
        stretches = list(looked_at)
        known = self._quantities(stretches)
        scores = {
            name: np.concatenate([each.scores[name] for each in stretches], axis=1) for name in stretches[0].scores
        }
        said = {name: self._said(name, scores.get(name, np.zeros((0, 0))), known) for name in NETWORKS}
        fusion, starts = scores["fusion"], [start for each in stretches for start in each.walked.starts_s]
        quantities = known | {"spread": _spread(fusion)}
        return Prediction(
            path,
            float(fusion.mean()),
            tuple(map(WindowScore, starts, fusion.mean(axis=0).tolist())),
            answer=said.pop("fusion"),
            modalities={str(name): each for name, each in said.items()},
            quantities={name: value if math.isfinite(value) else None for name, value in quantities.items()},
        )

    def _quantities(self, stretches: Sequence[_Stretch]) -> dict[str, float]:
        """What `pipeline.statistics.limits` names, but for the spread, of a whole file."""
        walked = [each.walked for each in stretches]
        numbers, power = (np.concatenate([each.powers[k] for each in walked]) for k in (0, 1))
        found = {
            "face_share": sum(each.face_windows for each in walked) / walked[0].planned,
            "speech_s": seconds_above(numbers, power, self._silence_db) if walked[0].has_audio else 0.0,
        }
        for modality in MODALITIES:
            distances = [each.distances[modality] for each in stretches if modality in each.distances]
            found[f"{modality}_distance"] = float(np.median(np.concatenate(distances))) if distances else math.nan
        return found

    def _said(self, network: NetworkName, scores: NDArray[np.float64], known: Mapping[str, float]) -> Answer:
        """What one network says; scores: (seeds, windows)."""
        if not len(scores):
            return cannot_tell("no such network was trained")
        if network in self._evidence.systems:
            return answer(float(scores.mean()), {**known, "spread": _spread(scores)}, self._evidence.systems[network])
        why = self._evidence.undefined.get(network, "evaluate did not score it")
        return cannot_tell(why, score=float(scores.mean()))


def predict(
    workspace: Workspace, videos: Iterable[Path], compute: ComputeParams, *, hop_s: float | None = None
) -> Iterator[Prediction]:
    """Yields a prediction a file as soon as it is there: in order by one process, in any order by several.

    The run's own parameters decide how the files are cut and what features they get; compute: how many processes work
    on them; hop_s: as `Detector.score` has it. Raises as `Detector`.
    """
    if compute.workers == 1 and not compute.scheduler:
        yield from Detector(workspace, compute).score_many(videos, hop_s=hop_s)
        return
    kept_evidence(workspace)  # what is missing is said before workers start
    tasks = [_Task(workspace.root.resolve(), compute, str(video), video.absolute(), hop_s) for video in videos]
    try:
        for _, prediction in run_tasks(_score, tasks, compute):
            yield prediction
    except TasksLostError as error:
        yield from (unscored(task.name, _DEADLY) for task in error.tasks)


@dataclass(frozen=True)
class _Task:
    """One file. Paths are absolute: the worker may have started in another folder."""

    root: Path
    compute: ComputeParams
    name: str
    video: Path
    hop_s: float | None


def _score(task: _Task) -> Prediction:
    return replace(_detector(task.root, task.compute).score(task.video, hop_s=task.hop_s), path=task.name)


@functools.lru_cache(maxsize=1)
def _detector(root: Path, compute: ComputeParams) -> Detector:
    return Detector(Workspace(root), compute)


def _spread(scores: NDArray[np.float64]) -> float:
    """Largest minus smallest mean of (seeds, windows); NaN for one seed."""
    return float(np.ptp(scores.mean(axis=1))) if len(scores) > 1 else math.nan
