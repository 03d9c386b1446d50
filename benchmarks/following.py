"""`python -m benchmarks.following --before FOLDER`: what following costs now and in an earlier version, in one run.

FOLDER is a checkout of that version. Each side decodes and follows the first WINDOW_S of clips of several sizes, as the
stage does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.real_clips import clip_path, listed_clips
from benchmarks.versions import compare_versions
from pipeline import media
from pipeline.faces.stage import follow_faces
from pipeline.params import Params

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
    """Decodes and follows a window, and reads the pictures of which crops would be cut."""
    params, found = Params().faces, media.probe(path)
    end_s = min(WINDOW_S, found.duration_s)
    full_at_s = np.linspace(0, end_s, params.frames, endpoint=False).tolist()
    with follow_faces(path, found, params, device="cpu", full_at_s=full_at_s, spans_s=[(0, end_s)]) as (_, full):
        full(0, len(full_at_s))


if __name__ == "__main__":
    main()
