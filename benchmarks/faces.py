"""`make bench-faces`: face boxes for every frame of a clip.

    python -m benchmarks.faces [still] [motion] [720p] [1080p] [a clip of these] [agreement]

Theirs is facenet-pytorch as people call it: every frame decoded (PyAV), made a PIL image, `MTCNN().detect`, the largest
face kept. Nothing of it is cached. Clips come from ../shared/realset (or BMNAS_REALSET); camera motion and cuts are
added to them with ffmpeg. Settings were chosen on DEVELOPMENT (and on clips made of them), on drawn clips and on a
moved photograph; no figure is of a clip of DEVELOPMENT. Two earlier rounds of work saw some of the clips.
Prints tables.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import av
import facenet_pytorch
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.real_clips import DEVELOPMENT, REALSET, clip_path, cut_together, listed_clips, panned, shortened
from benchmarks.side_by_side import compare, print_figures
from pipeline import media
from pipeline.faces.clip import follow_faces
from pipeline.faces.following import iou
from pipeline.faces.mtcnn import DEFAULT_FACE_PX, Faces, Mtcnn
from pipeline.faces.networks import torch_networks
from pipeline.faces.tracks import link_tracks
from pipeline.params import Params
from pipeline.synth import generate

STILL = ("grid-0327", "grid-0331", "grid-0335")
PANNED = "hyperlips-0355"
HD = {"720p": ("hyperlips-0356", "w2lnoise-0376"), "1080p": ("hyperlips-0363", "dfdc-0440")}
GOALS = {"still": 25.0, "motion": 12.0, "720p": 40.0, "1080p": 40.0}
EVERY_FRAME_SMOOTH_S = 0.08
AGREEMENT_CLIPS, AGREEMENT_FRAMES, EXACT_FRAMES = 40, 40, 3
console = Console()


def main() -> None:
    """Runs the parts named on the command line; all timed ones by default."""
    chosen = sys.argv[1:] or list(GOALS)
    clips = {name: part for part, names in HD.items() for name in names}
    if unknown := set(chosen) - {*GOALS, *clips, "agreement"}:
        sys.exit(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join([*GOALS, *clips, 'agreement'])}")
    listed_clips()
    with tempfile.TemporaryDirectory() as folder:
        for part in chosen:
            if part == "agreement":
                agreement(Path(folder))
            else:
                boxes(part, clips_of(part, Path(folder)), GOALS[clips.get(part, part)])


def clips_of(part: str, folder: Path) -> list[Path]:
    """The clips of a part of GOALS; of a single clip of HD, this one."""
    if part == "still":
        return [clip_path(name) for name in STILL[:2]]
    if part == "motion":
        return [panned(clip_path(PANNED), folder), cut_together([clip_path(name) for name in STILL], folder)]
    return [shortened(clip_path(name), folder) for name in HD.get(part, (part,))]


def boxes(part: str, paths: list[Path], goal: float) -> None:
    """Boxes for every frame of the clips, from the files: time and agreement."""
    ours, theirs = Kept(our_boxes, paths), Kept(their_boxes, paths)
    figure = compare(f"boxes of every frame, {part}", ours, theirs, goal=goal)
    table = Table("boxes of every frame", "frames", "mean IoU", "5th percentile", "lost", "jitter", "its own")
    for path, *found in zip(paths, ours.found, theirs.found, strict=True):
        table.add_row(path.stem, *compared(*([boxes] for boxes in found)).row())
    table.add_row(part, *compared(ours.found, theirs.found).row())
    console.print(table)
    print_figures([figure])


def agreement(folder: Path) -> None:
    """How well ours agrees on many clips, the first AGREEMENT_FRAMES of each; not timed.

    Of the exactness mode (the same pyramid, each picture searched) the first EXACT_FRAMES of each clip.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    table = Table("clip", "size", "frames", "mean IoU", "5th percentile", "lost", "jitter", "its own", "exact")
    pairs, exact = [], []
    for path in [*_subjects(), *drawn(folder, 6)]:
        found = list(their_faces(path, facenet_pytorch.MTCNN(), AGREEMENT_FRAMES))
        theirs = np.stack([np.full(4, np.nan) if box is None else np.asarray(box, float) for _, box in found])
        if np.isnan(theirs).all():
            console.print(f"{path.stem}: facenet-pytorch finds no face in it")
            continue
        first = np.stack([np.asarray(image) for image, _ in found[:EXACT_FRAMES]])
        ours = our_boxes(path)[: len(theirs)]
        exact.append((largest(Mtcnn(DEFAULT_FACE_PX, torch_networks("cpu")).detect(first)), theirs[:EXACT_FRAMES]))
        pairs.append((ours, theirs))
        size = "x".join(map(str, first.shape[2:0:-1]))
        one, same = compared([ours], [theirs]), compared(*([side] for side in exact[-1]))
        table.add_row(path.stem, size, *one.row(), f"{same.overlaps.mean():.4f}")
    whole, same = (compared(*(list(side) for side in zip(*found, strict=True))) for found in (pairs, exact))
    table.add_row(f"all {len(pairs)}", "", *whole.row(), f"{same.overlaps.mean():.4f}")
    console.print(table)


def _subjects() -> list[Path]:
    """One clip a subject, evenly over the list, none of a subject of DEVELOPMENT."""
    listed = listed_clips()
    seen = set(listed.subject_id[listed.clip_id.isin(DEVELOPMENT)])
    rows = listed[listed.face_height_px.notna() & ~listed.subject_id.isin(seen)]
    rows = rows.groupby("subject_id", sort=False).head(1)
    rows = rows.iloc[np.linspace(0, len(rows) - 1, min(AGREEMENT_CLIPS, len(rows))).round().astype(int)]
    return [REALSET / str(path) for path in rows.path]


def drawn(folder: Path, clips: int) -> list[Path]:
    """So many clips of `bmnas synth`, one a person."""
    generate(folder / "drawn", identities=clips, clips_per_identity=4, difficulty=0.3, seed=7, jobs=2)
    return sorted((folder / "drawn").rglob("*.mp4"))[::4]


class Kept:
    """Calls a function of a path for all paths and keeps what it found the last time."""

    def __init__(self, function: Callable[[Path], NDArray[np.float64]], paths: Sequence[Path]) -> None:
        self.function, self.paths, self.found = function, paths, list[NDArray[np.float64]]()

    def __call__(self) -> None:
        self.found = [self.function(path) for path in self.paths]


@dataclass(frozen=True)
class Agreement:
    """Ours beside theirs, over all frames in which theirs finds a face."""

    frames: int
    overlaps: NDArray[np.float64]
    """IoU, 0 where ours has none"""
    ours_jitter: float
    """mean IoU of a frame's box with the next one's"""
    theirs_jitter: float

    def row(self) -> tuple[str, ...]:
        """Cells of a table."""
        figures = (self.overlaps.mean(), np.quantile(self.overlaps, 0.05))
        jitter = (self.ours_jitter, self.theirs_jitter)
        return (
            str(self.frames),
            *(f"{figure:.3f}" for figure in figures),
            str(int((self.overlaps == 0).sum())),
            *(f"{figure:.3f}" for figure in jitter),
        )


def compared(ours: list[NDArray[np.float64]], theirs: list[NDArray[np.float64]]) -> Agreement:
    """Of several clips, (frames, 4) each."""
    overlaps = [iou(o[~np.isnan(t[:, 0])], t[~np.isnan(t[:, 0])]) for o, t in zip(ours, theirs, strict=True)]
    jitter = [np.nanmean(np.concatenate([iou(b[1:], b[:-1]) for b in boxes])) for boxes in (ours, theirs)]
    return Agreement(sum(map(len, theirs)), np.nan_to_num(np.concatenate(overlaps)), float(jitter[0]), float(jitter[1]))


def our_boxes(path: Path) -> NDArray[np.float64]:
    """(frames, 4) the largest face of every frame, nan where there is none."""
    params, found = Params().faces, media.probe(path)
    torch.set_num_threads(1)  # as in a worker of the stage: ffmpeg has the other core
    # As the stage: some pictures a second are followed, and full ones wait for the crops.
    end_s = float(found.times_s[-1])
    full_at_s = np.arange(0, end_s + 1e-3, 0.5).tolist()
    with follow_faces(
        path, found, params, networks=torch_networks("cpu"), full_at_s=full_at_s, spans_s=[(0, end_s)]
    ) as (looks, _):
        boxes = np.full((len(found.times_s), 4), np.nan)
        area = np.zeros(len(boxes))
        looked = np.array([look.time_s for look in looks])
        # A picture that was not decoded shows what the decoded one before it did: a cut begins at one that is.
        before = looked[(np.searchsorted(looked, found.times_s + 1e-3) - 1).clip(min=0)]
        for track in link_tracks(looks):
            if track.faces.probabilities.max() >= params.min_probability:
                now = track.at(found.times_s, smooth_s=EVERY_FRAME_SMOOTH_S).boxes
                size = np.where(track.seen_at(before), (now[:, 2:] - now[:, :2]).prod(axis=1), 0)
                boxes[size > area], area = now[size > area], np.maximum(area, size)
    return boxes


def largest(found: list[Faces]) -> NDArray[np.float64]:
    """(frames, 4) the largest box of each, nan where there is none."""
    boxes = np.full((len(found), 4), np.nan)
    for i, faces in enumerate(found):
        if len(faces):
            boxes[i] = faces.boxes[(faces.boxes[:, 2:] - faces.boxes[:, :2]).prod(axis=1).argmax()]
    return boxes


def their_boxes(path: Path) -> NDArray[np.float64]:
    """The same by facenet-pytorch, frame by frame."""
    torch.set_num_threads(os.cpu_count() or 1)
    none = np.full(4, np.nan)
    found = their_faces(path, facenet_pytorch.MTCNN())
    return np.stack([none if box is None else np.asarray(box, float) for _, box in found])


def their_faces(
    path: Path, detector: facenet_pytorch.MTCNN, frames: int | None = None
) -> Iterator[tuple[Image.Image, NDArray[np.float32] | None]]:
    """(picture, largest box or None) of every frame."""
    with av.open(str(path)) as container:
        for frame in itertools.islice(container.decode(video=0), frames):
            image = frame.to_image()
            found, _ = detector.detect(image)
            yield image, None if found is None else found[0]


if __name__ == "__main__":
    main()
