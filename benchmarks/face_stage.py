"""`make bench-face_stage`: the whole faces stage against each of its parts alone, over the same real clips."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.real_clips import clip_path, listed_clips
from benchmarks.side_by_side import Figure, in_turn, print_figures
from cache_schemas.manifest import Clip
from cache_schemas.media import FACES
from cache_schemas.shards import write_shard
from pipeline import media
from pipeline.faces.clip import SMOOTH_S, new_follower, small_every, small_height_px
from pipeline.faces.crops import cut_crop, poses
from pipeline.faces.mtcnn import Mtcnn
from pipeline.faces.networks import torch_networks
from pipeline.faces.stage import clip_faces
from pipeline.faces.tracks import Look, link_tracks
from pipeline.faces.turned import quarter_turns
from pipeline.params import Params
from pipeline.shards.stage import ClipJob
from pipeline.shards.windows import frame_times, plan_windows

STAGE = ("grid-0328", "hyperlips-0357", "w2lnoise-0373", "latentsync-0390", "vretalk-0386", "dfdc-0440")
"""Of many sizes, 360x288 to full HD, portrait and landscape."""
console = Console()


def main() -> None:
    """Measures and prints."""
    listed_clips()
    with tempfile.TemporaryDirectory() as folder:
        print_figures(stage(Path(folder)))


def stage(folder: Path) -> list[Figure]:
    """The whole stage against each of its parts alone, over the same clips."""
    params = Params()
    jobs = [job_of(clip_path(name), params) for name in STAGE]
    parts = [Parts(path, job, params) for path, job in jobs]
    seconds = sum(media.probe(path).duration_s for path, _ in jobs)

    def whole() -> None:
        write_shard(folder, FACES, "key", [clip_faces(job, path, params) for path, job in jobs])

    alone: dict[str, Callable[[], object]] = {
        "decode": lambda: [part.decode() for part in parts],
        "detect and track": lambda: [part.follow() for part in parts],
        "crop": lambda: [part.crop() for part in parts],
        "which way up": lambda: [part.turned() for part in parts],
        "write": lambda: write_shard(folder, FACES, "key", [part.result for part in parts]),
    }
    taken = in_turn({"whole": whole} | alone)
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
    # The goal is the slowest one's.
    return [Figure(f"stage: {name} alone, of the whole", 1 / 1.5, taken["whole"], taken[name]) for name in alone]


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
        follower = new_follower(self.found, self.params.faces, networks=torch_networks("cpu"))
        for frames in self.small:
            follower.add(frames.times_s, frames.pixels)
        follower.finish()
        return follower.looks

    def crop(self) -> list[NDArray[np.uint8]]:
        """All that it cuts."""
        p = self.params.faces
        where = poses(self.track.at(self.full.times_s, smooth_s=SMOOTH_S), p.align)
        return [
            cut_crop(frame, pose, size_px=p.size_px, margin=p.margin)
            for frame, pose in zip(self.full.pixels, where, strict=True)
        ]

    def turned(self) -> int:
        """Which way up the face is, by as many pictures as the stage asks."""
        some = np.linspace(0, len(self.times) - 1, 4).round().astype(int)
        boxes = self.track.at(self.times[some], smooth_s=SMOOTH_S).boxes
        mtcnn = Mtcnn(self.params.faces.min_face_px, torch_networks("cpu"))
        return quarter_turns(mtcnn, [self.full.pixels[i] for i in some], boxes)


def job_of(path: Path, params: Params) -> tuple[Path, ClipJob]:
    """The clip's task in the stage."""
    clip = Clip(path.stem, path.name, "", "", "", "", 0, None, 0, "", "", "test", 0)
    duration = media.probe(path).duration_s
    windows = plan_windows(path.stem, duration_s=duration, leading_silence_s=0, params=params.windows)
    return path, ClipJob(clip, "", windows)


if __name__ == "__main__":
    main()
