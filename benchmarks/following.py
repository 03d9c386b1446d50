"""`python -m benchmarks.following --before FOLDER`: what the stage costs now and in an earlier version, in one run.

FOLDER is a checkout of that version. Each side decodes, follows and cuts the first WINDOW_S of clips of several sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.real_clips import clip_path, listed_clips
from benchmarks.versions import compare_versions
from cache_schemas.manifest import Clip
from cache_schemas.windows import ClipWindows
from pipeline import media
from pipeline.faces.stage import clip_faces
from pipeline.params import Params
from pipeline.shards.stage import ClipJob

CLIPS = ("grid-0327", "hyperlips-0356", "w2lnoise-0376", "hyperlips-0363", "dfdc-0440")
"""360x288, and two each of 720 and of 1080 lines."""
WINDOW_S = 4.0


def main() -> None:
    """Prints both sides' seconds for each clip, and the ratio."""
    listed_clips()
    compare_versions("benchmarks.following", __doc__)


def parts() -> dict[str, Callable[[], None]]:
    """What is done in a turn: each clip."""
    torch.set_num_threads(1)
    return {name: functools.partial(follow, clip_path(name)) for name in CLIPS}


def follow(path: Path) -> None:
    """A window's crops: all but 8 pictures' cutting is decoding and following."""
    clip = Clip(path.stem, path.name, "", "", "", "", 0, None, 0, "", "", "test", 0)
    windows = ClipWindows(path.stem, (0.0,), min(WINDOW_S, media.probe(path).duration_s))
    clip_faces(ClipJob(clip, "", windows), path, Params())


if __name__ == "__main__":
    main()
