"""`bmnas predict --html`: the files' answers with their reasons, and a page of each in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cache_schemas.files import write_text
from pipeline.compute.workers import TasksLostError, run_tasks
from pipeline.detector.explain import Explained
from pipeline.detector.page.document import page
from pipeline.detector.page.look import look
from pipeline.detector.page.names import page_names
from pipeline.detector.page.shown import About
from pipeline.detector.predict import DEADLY, kept_detector
from pipeline.detector.prediction import Prediction, WhichFaces, unscored
from pipeline.params import ComputeParams
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class _Task:
    """One file and its page. Paths are absolute: the worker may have started in another folder."""

    root: Path
    compute: ComputeParams
    name: str
    video: Path
    hop_s: float | None
    faces: WhichFaces
    to: Path
    about: About


def predict_pages(
    workspace: Workspace,
    videos: Sequence[Path],
    compute: ComputeParams,
    *,
    hop_s: float | None,
    faces: WhichFaces,
    folder: Path,
    about: About,
) -> Iterator[Prediction]:
    """As `predict`, with explanations; when an answer is there, its page is in `folder`, which is made.

    A page is named after its file, see `page_names`, and takes the place of one of that name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root, names = workspace.root.resolve(), page_names(videos)
    tasks = [
        _Task(root, compute, str(video), video.absolute(), hop_s, faces, folder.absolute() / names[video], about)
        for video in videos
    ]
    try:
        for _, prediction in run_tasks(_written, tasks, compute):
            yield prediction
    except TasksLostError as error:
        for task in error.tasks:
            lost = unscored(task.name, DEADLY)
            _write(task, Explained(lost, None))
            yield lost


def _written(task: _Task) -> Prediction:
    found = kept_detector(task.root, task.compute).explained(task.video, hop_s=task.hop_s, faces=task.faces)
    found = replace(found, prediction=replace(found.prediction, path=task.name))
    _write(task, found)
    return found.prediction


def _write(task: _Task, found: Explained) -> None:
    shown = look(task.video, found)
    write_text(task.to, page(found.prediction, shown, task.about))
