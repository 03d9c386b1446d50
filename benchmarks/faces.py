"""`make bench-faces`: face boxes for every frame, the stage beside its parts, and preprocessing end to end.

    python -m benchmarks.faces [boxes] [stage] [preprocessing] [agreement]

Theirs is facenet-pytorch as people call it: every frame decoded (PyAV), made a PIL image, `MTCNN().detect`, the largest
face kept. Nothing of it is cached. Clips come from ../shared/realset (or BMNAS_REALSET); camera motion and cuts are
added to them with ffmpeg. Settings were chosen on DEVELOPMENT (and on clips made of them), on drawn clips and on a
moved photograph; no figure of `boxes` or `agreement` is of a clip of DEVELOPMENT. Two earlier rounds of work saw some
of the clips of `boxes`.
Prints tables; the timed figures go to benchmarks/results/faces.json.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import av
import facenet_pytorch
import librosa
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.side_by_side import Figure, compare, publish
from cache_schemas.manifest import Clip
from cache_schemas.media import FACES
from cache_schemas.shards import write_shard
from pipeline import media
from pipeline.crops import cut_crop, poses
from pipeline.faces import SMOOTH_S, clip_faces, follow_faces, new_follower, small_every, small_height_px
from pipeline.following import iou
from pipeline.mtcnn import DEFAULT_FACE_PX, Faces, Mtcnn
from pipeline.params import Params
from pipeline.shard_stage import ClipJob
from pipeline.synth import generate
from pipeline.tracks import Look, link_tracks
from pipeline.windows import frame_times, plan_windows

REALSET = Path(os.environ.get("BMNAS_REALSET", Path(__file__).parents[2] / "shared" / "realset"))
STILL = ("grid-0327", "grid-0331", "grid-0335")
HD = ("hyperlips-0356", "w2lnoise-0376", "hyperlips-0363", "dfdc-0440")
"""Two of 720p, two of 1080p"""
DEVELOPMENT = (
    *("grid-0333", "grid-0334", "grid-0336", "ffpp-0442", "ffpp-0443", "hyperlips-0358", "s2dubber-0224", "eamm-0425"),
    *("dfdc-widuwuoiur", "l2sunit-0090", "lrq-0240", "styletalk-0400", "vretalk-0388"),
)
STAGE = ("grid-0328", "hyperlips-0357", "w2lnoise-0373", "latentsync-0390", "vretalk-0386", "dfdc-0440")
"""Of many sizes, 360x288 to full HD, portrait and landscape."""
PREPROCESSED_CLIPS, THEIRS_EVERY = 100, 10
HD_SECONDS = 1.6
EVERY_FRAME_SMOOTH_S = 0.08
AGREEMENT_CLIPS, AGREEMENT_FRAMES, EXACT_FRAMES = 40, 40, 3
console = Console()


def main() -> None:
    """Runs the parts named on the command line; all timed ones by default."""
    parts: dict[str, Callable[[Path], list[Figure]]] = {
        "boxes": boxes,
        "stage": stage,
        "preprocessing": preprocessing,
        "agreement": agreement,
    }
    chosen = sys.argv[1:] or ["boxes", "stage", "preprocessing"]
    if unknown := set(chosen) - set(parts):
        sys.exit(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(parts)}")
    if not REALSET.is_dir():
        sys.exit(f"{REALSET} does not exist: these figures need real clips; name their folder in BMNAS_REALSET")
    with tempfile.TemporaryDirectory() as folder:
        figures = [figure for part in chosen for figure in parts[part](Path(folder))]
    if figures:
        publish("faces", figures)


def boxes(folder: Path) -> list[Figure]:
    """Boxes for every frame of a clip, from the file: time and agreement."""
    still = [clip_path(name) for name in STILL[:2]]
    moving = [panned(clip_path("hyperlips-0355"), folder), cut_together([clip_path(n) for n in STILL], folder)]
    hd = [shortened(clip_path(name), folder) for name in HD]
    groups = [
        ("360x288, still heads", still, 25.0),
        ("360x288, camera motion and cuts", moving, 12.0),
        ("720p", hd[:2], 40.0),
        ("1080p", hd[2:], 40.0),
    ]
    figures = []
    table = Table("boxes of every frame", "frames", "mean IoU", "5th percentile", "lost", "jitter", "its own")
    for name, paths, goal in groups:
        ours, theirs = Kept(our_boxes, paths), Kept(their_boxes, paths)
        figures.append(compare(f"boxes of every frame, {name}", ours, theirs, goal=goal))
        table.add_row(name, *compared(ours.found, theirs.found).row())
    console.print(table)
    return figures


def agreement(folder: Path) -> list[Figure]:
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
        exact.append((largest(Mtcnn(DEFAULT_FACE_PX).detect(first)), theirs[:EXACT_FRAMES]))
        pairs.append((ours, theirs))
        size = "x".join(map(str, first.shape[2:0:-1]))
        one, same = compared([ours], [theirs]), compared(*([side] for side in exact[-1]))
        table.add_row(path.stem, size, *one.row(), f"{same.overlaps.mean():.4f}")
    whole, same = (compared(*(list(side) for side in zip(*found, strict=True))) for found in (pairs, exact))
    table.add_row(f"all {len(pairs)}", "", *whole.row(), f"{same.overlaps.mean():.4f}")
    console.print(table)
    return []


def _subjects() -> list[Path]:
    """One clip a subject, evenly over the list, none of a subject of DEVELOPMENT."""
    listed = pd.read_csv(REALSET / "manifest.csv")
    seen = set(listed.subject_id[listed.clip_id.isin(DEVELOPMENT)])
    rows = listed[listed.face_height_px.notna() & ~listed.subject_id.isin(seen)]
    rows = rows.groupby("subject_id", sort=False).head(1)
    rows = rows.iloc[np.linspace(0, len(rows) - 1, min(AGREEMENT_CLIPS, len(rows))).round().astype(int)]
    return [REALSET / str(path) for path in rows.path]


def drawn(folder: Path, clips: int) -> list[Path]:
    """So many clips of `bmnas synth`, one a person."""
    generate(folder / "drawn", identities=clips, clips_per_identity=4, difficulty=0.3, seed=7, jobs=2)
    return sorted((folder / "drawn").rglob("*.mp4"))[::4]


def stage(folder: Path) -> list[Figure]:
    """The whole stage against each of its parts alone, over the same clips."""
    params = Params()
    jobs = [job_of(clip_path(name), params) for name in STAGE]
    parts = [Parts(path, job, params) for path, job in jobs]
    seconds = sum(media.probe(path).duration_s for path, _ in jobs)

    def whole() -> None:
        write_shard(folder, FACES, "key", [clip_faces(job, path, params) for path, job in jobs])

    alone = {
        "decode": lambda: [part.decode() for part in parts],
        "detect and track": lambda: [part.follow() for part in parts],
        "crop": lambda: [part.crop() for part in parts],
        "write": lambda: write_shard(folder, FACES, "key", [part.result for part in parts]),
    }
    # One of these parts is the slowest; its share of the whole is to be at least 1 / 1.5.
    figures = [compare(f"stage: {name} alone, of the whole", whole, part, goal=1 / 1.5) for name, part in alone.items()]
    before, start = os.times(), time.perf_counter()
    whole()
    used = sum(os.times()[:4]) - sum(before[:4])
    crop_bytes = sum(path.stat().st_size for path in folder.glob("*.h5"))
    windows = sum(len(part.result.starts_s) for part in parts)
    console.print(
        f"stage: {seconds:.1f} s of video in {used:.2f} s of one core: {seconds / used:.1f} hours of video an hour; "
        f"{len(jobs) / used:.2f} clips/s per core; {(time.perf_counter() - start):.2f} s wall; "
        f"{crop_bytes / windows / 1e3:.0f} kB a window"
    )
    return [max(figures, key=lambda figure: figure.ratio)]


def preprocessing(folder: Path) -> list[Figure]:
    """The first stages on PREPROCESSED_CLIPS clips, by their commands, against MTCNN frame by frame in one process.

    Theirs is done for every THEIRS_EVERY-th of the clips and multiplied: frame by frame, time is linear in the clips.
    """
    root, work, settings = folder / "clips", folder / "work", folder / "params.yaml"
    listed = pd.read_csv(REALSET / "manifest.csv")
    paths = [REALSET / str(path) for path in listed.path[~listed.clip_id.isin(DEVELOPMENT)]]
    paths = paths[:: len(paths) // PREPROCESSED_CLIPS][:PREPROCESSED_CLIPS]
    for path in paths:
        (root / "real" / path.stem).mkdir(parents=True)
        shutil.copy(path, root / "real" / path.stem)
    settings.write_text(json.dumps({"data": {"layout": "folders", "root": str(root)}}))
    detector, some = facenet_pytorch.MTCNN(), paths[::THEIRS_EVERY]
    start = time.perf_counter()
    for command in ("manifest", "spectrograms", "faces"):
        given = ["--params", str(settings), "--work", str(work)]
        subprocess.run([str(Path(sys.executable).with_name("bmnas")), command, *given], check=True)  # noqa: S603
    middle = time.perf_counter()
    torch.set_num_threads(os.cpu_count() or 1)
    for path in some:
        preprocess_theirs(path, detector, folder / "theirs")
    ours, theirs = middle - start, (time.perf_counter() - middle) * len(paths) / len(some)
    machine = f"{os.cpu_count()} cores, torch {torch.__version__}"
    name = f"preprocessing {len(paths)} clips, end to end; theirs from {len(some)} of them"
    return [Figure(name, theirs / ours, 20, ours, theirs, 1, machine)]


def preprocess_theirs(path: Path, detector: facenet_pytorch.MTCNN, folder: Path) -> None:
    """Every frame's crop and the spectrogram of one clip."""
    target = folder / path.stem
    target.mkdir(parents=True)
    for i, (image, box) in enumerate(their_faces(path, detector)):
        if box is not None:
            side = 1.3 * (box[2:] - box[:2]).max()
            corner = (box[:2] + box[2:] - side) / 2
            crop = image.crop((*corner, *(corner + side))).resize((224, 224), Image.Resampling.BILINEAR)
            crop.save(target / f"{i:04d}.png")
    with contextlib.suppress(IndexError):  # a clip without sound
        sound = their_sound(path)
        np.save(target / "mel.npy", librosa.power_to_db(librosa.feature.melspectrogram(y=sound, sr=16000)))


class Kept:
    """Calls a function of a path for all paths and keeps what it found the last time."""

    def __init__(self, function: Callable[[Path], NDArray[np.float64]], paths: Sequence[Path]) -> None:
        self.function, self.paths, self.found = function, paths, list[NDArray[np.float64]]()

    def __call__(self) -> None:
        self.found = [self.function(path) for path in self.paths]


class Parts:
    """One clip's stage, part by part."""

    def __init__(self, path: Path, job: ClipJob, params: Params) -> None:
        self.path, self.params = path, params
        self.found = media.probe(path)
        wanted = frame_times(job.inputs, frames=params.faces.frames, params=params.windows)
        self.times = np.unique(wanted)
        self.spans = [(start, start + job.inputs.available_s) for start in job.inputs.starts_s]
        self.small, self.full = self.decode()
        self.result = clip_faces(job, path, params)
        self.track = max(link_tracks(self.follow()), key=lambda track: track.weight)

    def decode(self) -> tuple[list[media.Frames], media.Frames]:
        """All that the stage decodes."""
        with media.open_video(
            self.path,
            found=media.probe(self.path),
            full_at_s=self.times.tolist(),
            small_height_px=small_height_px(self.found, self.params.faces),
            spans_s=self.spans,
            small_every=small_every(self.found),
        ) as video:
            return list(video.small()), video.full()

    def follow(self) -> list[Look]:
        """All that it searches and follows."""
        follower = new_follower(self.found, self.params.faces, device="cpu")
        for frames in self.small:
            follower.add(frames.times_s, frames.pixels)
        return follower.looks

    def crop(self) -> list[NDArray[np.uint8]]:
        """All that it cuts."""
        p = self.params.faces
        where = poses(self.track.at(self.full.times_s, smooth_s=SMOOTH_S), p.align)
        return [
            cut_crop(frame, pose, size_px=p.size_px, margin=p.margin)
            for frame, pose in zip(self.full.pixels, where, strict=True)
        ]


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
    with follow_faces(path, found, params, device="cpu", full_at_s=()) as (looks, _):
        boxes = np.full((len(found.times_s), 4), np.nan)
        area = np.zeros(len(boxes))
        looked = np.array([look.time_s for look in looks])
        # A picture that was not decoded shows what the decoded one before it did: a cut begins at one that is.
        before = looked[(np.searchsorted(looked, found.times_s + 1e-3) - 1).clip(min=0)]
        for track in link_tracks(looks):
            if track.probabilities.max() >= params.min_probability:
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


def their_sound(path: Path) -> NDArray[np.float32]:
    """16 kHz mono, by PyAV and librosa."""
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        to_float = av.AudioResampler(format="fltp", layout="mono", rate=rate)
        pieces = [f.to_ndarray()[0] for frame in container.decode(audio=0) for f in to_float.resample(frame)]
    return np.asarray(librosa.resample(np.concatenate(pieces), orig_sr=rate, target_sr=16000))


def clip_path(name: str) -> Path:
    """Of a clip of realset, by its clip_id there."""
    return next((REALSET / "clips").glob(f"{name}.*"))


def job_of(path: Path, params: Params) -> tuple[Path, ClipJob]:
    """The clip's task in the stage."""
    clip = Clip(path.stem, path.name, "", "", "", "", 0, None, 0, "", "", "test", 0)
    duration = media.probe(path).duration_s
    windows = plan_windows(path.stem, duration_s=duration, leading_silence_s=0, params=params.windows)
    return path, ClipJob(clip, "", windows)


def shortened(path: Path, folder: Path) -> Path:
    """Its first HD_SECONDS, not encoded anew."""
    return made(folder / f"short {path.stem}.mp4", "-i", path, "-an", "-t", HD_SECONDS, "-c", "copy")


def panned(path: Path, folder: Path) -> Path:
    """A window of 360x288 that sways over it by up to 12 px a frame."""
    where = "x='(iw-360)/2+100*sin(n/9)':y='(ih-288)/2+30*sin(n/7)'"
    sway = f"scale=-2:330,pad=iw+200:ih+80:100:40,crop=360:288:{where},setsar=1"
    target = folder / f"panned {path.stem}.mp4"
    return made(target, "-i", path, "-an", "-vf", sway, "-frames:v", 75, "-crf", 16, "-pix_fmt", "yuv420p")


def cut_together(paths: list[Path], folder: Path) -> Path:
    """About a second of each, one after the other."""
    inputs = [argument for path in paths for argument in ("-i", path)]
    heads = [f"[{i}:v]trim=end_frame={21 + 5 * i},setpts=PTS-STARTPTS,setsar=1[v{i}];" for i in range(len(paths))]
    joined = "".join(f"[v{i}]" for i in range(len(paths))) + f"concat={len(paths)}"
    script = "".join(heads) + joined
    return made(folder / "cuts.mp4", *inputs, "-filter_complex", script, "-an", "-crf", 16, "-pix_fmt", "yuv420p")


def made(path: Path, *arguments: object) -> Path:
    """`path`, made by ffmpeg."""
    command = [media.ffmpeg_exe(), "-y", "-loglevel", "error", *map(str, arguments), str(path)]
    subprocess.run(command, check=True)  # noqa: S603
    return path


if __name__ == "__main__":
    main()
