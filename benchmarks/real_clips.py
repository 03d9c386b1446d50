"""The real clips that the face benchmarks run on, and what is made of them with ffmpeg."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from pipeline import media

REALSET = Path(os.environ.get("BMNAS_REALSET", Path(__file__).parents[2] / "shared" / "realset"))
DEVELOPMENT = (
    *("grid-0333", "grid-0334", "grid-0336", "ffpp-0442", "ffpp-0443", "hyperlips-0358", "s2dubber-0224", "eamm-0425"),
    *("dfdc-widuwuoiur", "l2sunit-0090", "lrq-0240", "styletalk-0400", "vretalk-0388"),
)
"""No figure is of one of these."""
HD_SECONDS = 1.6


def listed_clips() -> pd.DataFrame:
    """Realset's table; ends the program where there is none."""
    if not REALSET.is_dir():
        sys.exit(f"{REALSET} does not exist: these figures need real clips; name their folder in BMNAS_REALSET")
    return pd.read_csv(REALSET / "manifest.csv")


def clip_path(name: str) -> Path:
    """Of a clip of realset, by its clip_id there."""
    return next((REALSET / "clips").glob(f"{name}.*"))


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
