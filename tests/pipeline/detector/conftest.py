"""Drawn people: one, two side by side, two after each other."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import media
from pipeline.synth.clip import render_clip
from pipeline.synth.plan import ClipSpec


@dataclass(frozen=True)
class TwoPeople:
    """Clips of 3.6 s, but for `cut`, which is twice as long."""

    real: Path
    fake: Path
    """Another person, with another's face"""
    pair: Path
    """Real on the left, fake on the right, with the sound of the real one"""
    cut: Path
    """The real one, and then the fake one"""


@pytest.fixture(scope="session")
def two_people(tmp_path_factory: pytest.TempPathFactory) -> TwoPeople:
    folder = tmp_path_factory.mktemp("people")
    specs = ClipSpec(0, 0.3, 0, 0, "RVRA", "", ""), ClipSpec(0, 0.3, 1, 0, "FVRA", "face-swap", "")
    clips = [folder / render_clip(spec, folder) for spec in specs]
    made = TwoPeople(*clips, folder / "pair.mkv", folder / "cut.mkv")
    for target, graph in {
        made.pair: "[0:v][1:v]hstack[v];[0:a]anull[a]",
        made.cut: "[0:v][0:a][1:v][1:a]concat=n=2:v=1:a=1[v][a]",
    }.items():
        argv = ["-i", clips[0], "-i", clips[1], "-filter_complex", graph, "-map", "[v]", "-map", "[a]", "-shortest"]
        coded = ["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "flac", target]
        subprocess.run([media.ffmpeg_exe(), "-v", "error", *argv, *coded], check=True)
    return made
