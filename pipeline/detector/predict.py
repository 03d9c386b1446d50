"""Command `predict`: new files, scored by a trained run."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from cache_schemas.run import NetworkName, RetrainRun, read_run
from pipeline import media
from pipeline.compute.workers import TasksLostError, run_tasks
from pipeline.detector.explain import Explained, Explainer
from pipeline.detector.judge import Judge, Looked, Stretch
from pipeline.detector.opened import open_bundle
from pipeline.detector.parts import load_parts
from pipeline.detector.people import Face
from pipeline.detector.prediction import Prediction, WhichFaces, unscored
from pipeline.detector.road import DetectorError, Road, Walked
from pipeline.features.forward import Frozen
from pipeline.params import ComputeParams, Params
from pipeline.runs.kept import kept_evidence
from pipeline.runs.unlike import Familiar, vectors
from pipeline.workspace import Workspace

LEAST_HOP_S = 0.1
Progress = Callable[[float], object]
DEADLY = "each process that took it died: it needs too much memory, or a decoder crashes on it"


class Detector:
    """A trained run, loaded once for any number of files. Several threads may ask it at once, with the same answers."""

    def __init__(self, workspace: Workspace, compute: ComputeParams) -> None:
        """Raises RunFileError where the run is not finished, DetectorError where its backbones are others today."""
        run = read_run(workspace.retrain / "retrain.json", RetrainRun)
        evidence, self._familiar = kept_evidence(workspace)
        params = Params.model_validate(run.params).model_copy(update={"compute": compute})
        self._workspace, self._params = workspace, params
        parts = load_parts(workspace, run, params)
        self._road, self._networks, self._compute = Road(params, parts), parts.networks, compute
        if "fusion" not in dict(self._networks):
            raise DetectorError(f"{workspace.retrain} has no network of both modalities: run `bmnas search` again")
        self._judge = Judge(params, evidence)
        _check_familiar(self._familiar, parts.backbones)
        self._opened = ExitStack()

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str = "auto", download: bool = False) -> Detector:
        """The detector in a bundle, or of a finished run: then `path` is its folder, `work` unless told otherwise.

        device: "auto", "cpu" or "cuda"; download: weights that a bundle only names may be fetched from their
        publishers, where they are not here. Raises FileNotFoundError, BundleError or RunFileError where there is none,
        DetectorError where it cannot be used here, as when its backbones have other weights today.
        """
        place, compute = Path(path), ComputeParams.model_validate({"workers": 1, "device": device})
        with ExitStack() as stack:
            workspace = (
                Workspace(place) if place.is_dir() else stack.enter_context(open_bundle(place, download=download))
            )
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

    def score(
        self,
        video: str | os.PathLike[str],
        *,
        hop_s: float | None = None,
        faces: WhichFaces = "all",
        progress: Progress | None = None,
    ) -> Prediction:
        """The file's answer; of one that cannot be scored, why: nothing about a file raises an error.

        hop_s: a window begins every so many seconds of a file of any length (see `Road.walk`); None: where the run's
        own parameters say. faces: "main" leaves `people` empty, and changes nothing else. progress: called with the
        share of the file that is done, stretch by stretch. Raises ValueError where hop_s is no time, or faces neither.
        """
        return self._answered(video, hop_s, faces, progress=progress)

    def explain(
        self,
        video: str | os.PathLike[str],
        *,
        hop_s: float | None = None,
        faces: WhichFaces = "all",
        progress: Progress | None = None,
    ) -> Prediction:
        """The same with its `explanation`, which takes some seconds more."""
        return self.explained(video, hop_s=hop_s, faces=faces, progress=progress).prediction

    def explained(
        self,
        video: str | os.PathLike[str],
        *,
        hop_s: float | None = None,
        faces: WhichFaces = "all",
        progress: Progress | None = None,
    ) -> Explained:
        """The same, and what was seen and heard, to show beside it."""
        explainer = Explainer(self._params, self._road.rows, self._score)
        prediction = self._answered(video, hop_s, faces, explainer=explainer, progress=progress)
        return Explained(prediction, explainer.looked_at() if prediction.explanation else None)

    def _answered(
        self,
        video: str | os.PathLike[str],
        hop_s: float | None,
        faces: WhichFaces,
        *,
        explainer: Explainer | None = None,
        progress: Progress | None = None,
    ) -> Prediction:
        if hop_s is not None and not LEAST_HOP_S <= hop_s < math.inf:
            raise ValueError(f"hop_s = {hop_s}: a window begins every so many seconds, at least {LEAST_HOP_S:g}")
        if faces not in get_args(WhichFaces):
            raise ValueError(f"faces = {faces!r}: give one of {', '.join(map(repr, get_args(WhichFaces)))}")
        path = video if isinstance(video, Path) else Path(video)  # which keeps a `media.Inside`
        try:
            stretches = []
            for walked in self._road.walk(path, hop_s=hop_s, faces=faces):
                stretches.append(self._kept(walked))
                if explainer:
                    explainer.add(walked)
                if progress:
                    progress(walked.done / walked.planned)
            found = self._judge(str(video), stretches)
            found = replace(found, explanation=explainer.explanation()) if explainer else found
        except (media.MediaError, DetectorError) as error:
            found = unscored(str(path), str(error))
        except Exception as error:  # one bad file never stops the others, however it is bad
            found = unscored(str(path), f"unexpected {type(error).__name__}: {error}")
        return replace(found, provenance=_provenance(path))

    def score_many(
        self,
        videos: Iterable[str | os.PathLike[str]],
        *,
        workers: int = 1,
        hop_s: float | None = None,
        faces: WhichFaces = "all",
        explain: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[Prediction]:
        """Yields a file's prediction as soon as it is there, as `score` or `explain` gives it.

        workers: so many processes, each with a detector of its own, 0 one per core; their answers come in any order,
        known by their `path`, and `progress` hears nothing of them. 1: in order, in this process.
        """
        if workers == 1:
            ask = self.explain if explain else self.score
            yield from (ask(video, hop_s=hop_s, faces=faces, progress=progress) for video in videos)
        else:
            compute = self._compute.model_copy(update={"workers": workers})
            yield from predict(self._workspace, map(Path, videos), compute, hop_s=hop_s, faces=faces, explain=explain)

    def _kept(self, walked: Walked) -> Stretch:
        faces = tuple(self._looked_at(face, walked.has_audio) for face in walked.faces)
        bare = replace(walked, layers={}, arrays={}, faces=tuple(replace(face, layers={}) for face in walked.faces))
        return Stretch(bare, self._looked_at(walked, walked.has_audio), faces)

    def _looked_at(self, seen: Walked | Face, has_audio: bool) -> Looked:
        scores: dict[NetworkName, list[NDArray[np.float64]]] = {}
        for name, network in self._networks:
            found = network(seen.layers)
            if found.shape != (len(seen.starts_s),) or not ((found >= 0) & (found <= 1)).all():  # NaN is neither
                raise DetectorError(
                    f"a network of {name} gives no P(fake) a window, 0 to 1: its weights are damaged, or made to be"
                )
            scores.setdefault(name, []).append(found)
        distances = {
            modality: familiar.gaussian.distances(vectors(seen.layers, familiar.layers))
            for modality, familiar in self._familiar.items()
            if modality != "audio" or has_audio
        }
        arrays = {name: np.array(of) for name, of in scores.items()}
        return Looked(seen.starts_s, seen.face_windows, arrays, distances)

    def _score(self, network: NetworkName, layers: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """P(fake) (windows,), the mean of the networks of that name, of {layer: (windows, L, C_in)}."""
        found = [scores(layers) for name, scores in self._networks if name == network]
        return np.asarray(np.mean(found, axis=0))


def predict(
    workspace: Workspace,
    videos: Iterable[Path],
    compute: ComputeParams,
    *,
    hop_s: float | None = None,
    faces: WhichFaces = "all",
    explain: bool = False,
    show: Callable[[Path], Show] | None = None,
    progress: Progress | None = None,
) -> Iterator[Prediction]:
    """Yields a prediction a file as soon as it is there: in order by one process, in any order by several.

    The run's own parameters decide how the files are cut and what features they get; compute: how many processes work
    on them; hop_s, faces, explain, progress: as `Detector.score_many` has them. show: gives what shows an explained
    file, in the process that looked at it. Raises as `Detector`; and OSError where something could not be shown, after
    all predictions: a full disk costs no answer.
    """
    here = compute.workers == 1 and not compute.scheduler
    if not here:
        kept_evidence(workspace)  # what is missing is said before workers start
    root = workspace.root.resolve()
    tasks = (
        _Task(root, compute, str(video), video.absolute(), hop_s, faces, explain, show and show(video))
        for video in videos
    )
    unshown = list[OSError]()
    answered = _by_one(Detector(workspace, compute), tasks, progress) if here else _by_many(list(tasks), compute)
    for prediction, error in answered:
        yield prediction
        if error:
            unshown.append(error)
    if unshown:
        raise OSError(
            f"of {len(unshown)} files the answers are there, but their pages could not be written: {unshown[0]}"
        )


Show = Callable[[Path, Explained], object]
"""Shows what was found of a file; runs in the process that found it."""
_Answered = tuple[Prediction, OSError | None]
"""(A file's answer, why it could not be shown)"""


@dataclass(frozen=True)
class _Task:
    """One file. Paths are absolute: the worker may have started in another folder."""

    root: Path
    compute: ComputeParams
    name: str
    video: Path
    hop_s: float | None
    faces: WhichFaces
    explain: bool
    show: Show | None

    def answered(self, found: Explained) -> _Answered:
        """By the name that the file was given by, shown."""
        found = replace(found, prediction=replace(found.prediction, path=self.name))
        try:
            if self.show:
                self.show(self.video, found)
        except OSError as error:
            return found.prediction, error
        return found.prediction, None


def _by_one(detector: Detector, tasks: Iterable[_Task], progress: Progress | None = None) -> Iterator[_Answered]:
    for task in tasks:
        if task.explain or task.show:
            found = detector.explained(task.video, hop_s=task.hop_s, faces=task.faces, progress=progress)
        else:
            scored = detector.score(task.video, hop_s=task.hop_s, faces=task.faces, progress=progress)
            found = Explained(scored, None)
        yield task.answered(found)


def _by_many(tasks: Sequence[_Task], compute: ComputeParams) -> Iterator[_Answered]:
    try:
        for _, answered in run_tasks(_in_worker, tasks, compute):
            yield answered
    except TasksLostError as error:
        yield from (task.answered(Explained(unscored(task.name, DEADLY), None)) for task in error.tasks)


def _in_worker(task: _Task) -> _Answered:
    return next(_by_one(_kept_detector(task.root, task.compute), [task]))


@functools.lru_cache(maxsize=1)
def _kept_detector(root: Path, compute: ComputeParams) -> Detector:
    """The detector in a folder, loaded once in a process; for tasks."""
    return Detector(Workspace(root), compute)


def _check_familiar(familiar: Mapping[str, Familiar], backbones: Iterable[Frozen]) -> None:
    """Raises DetectorError where what the training clips are like is not told in numbers that the backbones give."""
    layers = {name: width for of in backbones for name, width in of.layers.items()}
    for modality, of in familiar.items():
        given = {name: layers.get(name, 0) for name in of.layers}
        if len(of.gaussian.mean) != sum(given.values()) or not all(given.values()):
            told = ", ".join(f"{name} ({width})" for name, width in given.items())
            raise DetectorError(
                f"unlike.safetensors: {modality}: {len(of.gaussian.mean)} numbers, of {told or 'no layer'} as the "
                f"backbones give it; they have {', '.join(layers)}: run `bmnas evaluate` again"
            )


def _provenance(path: Path) -> dict[str, Any] | None:
    """What a file's manifest says, whatever becomes of its score."""
    try:
        with media.one_file():
            found = media.provenance(media.anywhere(path))
    except media.PassingError:
        return None
    except Exception as error:  # a score is not lost to it
        found = media.Manifest(state="unreadable", problems=(f"unexpected {type(error).__name__}",))
    return None if found is None else {"says": found.says, **found.model_dump()}
