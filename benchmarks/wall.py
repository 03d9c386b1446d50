"""`python -m benchmarks.wall --before FOLDER`: what reading costs now and in an earlier version, in one run.

FOLDER is a checkout of that version. Each side reads the same clips, sound and pictures as the stages do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from benchmarks.real_clips import DEVELOPMENT, clip_path, listed_clips
from benchmarks.versions import compare_versions
from pipeline import media


def main() -> None:
    """Prints both sides' seconds for a turn, and the ratio."""
    listed_clips()
    compare_versions("benchmarks.wall", __doc__)


def parts() -> dict[str, Callable[[], object]]:
    """What is done in a turn."""
    clips = [clip_path(name) for name in DEVELOPMENT[::3]]
    return {"reading": lambda: [_read(clip) for clip in clips]}


def _read(clip: Path) -> None:
    with contextlib.suppress(media.NoAudioError):
        media.read_sound(clip, sample_rate_hz=16000)
    found = media.probe(clip)
    with media.open_video(
        clip, full_at_s=[0.5, 1.0, 1.5], small_height_px=min(360, found.height_px), found=found
    ) as it:
        for _ in it.small():
            pass
        it.full()


if __name__ == "__main__":
    main()
