"""`make soak-fakeavceleb`: all stages and protocols over a tree of FakeAVCeleb's shape; minutes and memory of each.

The table, folders and people are those of `tests.pipeline.manifest.fakeavceleb_shape`; the films are the built-in data
set's, small, no two files alike. Then `bmnas manifest` alone on a tree of all 21,544 files. What the networks score
says nothing: people of several splits share a drawn face.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from cache_schemas.manifest import read_manifest, read_unused
from pipeline import media
from pipeline.synth import generate
from pipeline.workspace import Workspace
from tests.pipeline.manifest.fakeavceleb_shape import HEADER, LABELS, doubled, rows
from tests.pipeline.tiny import draw, numbered

STEPS = (
    ("manifest",), ("spectrograms",), ("faces",), ("features",), ("search",), ("retrain",), ("evaluate",),
    ("protocol", "people"), ("protocol", "leave-one-method-out"), ("protocol", "leave-one-group-out"), ("report",),
)  # fmt: skip
FOLDER = "FakeAVCeleb_v1.2"
CUTS = (("0", "2.4"), ("0.5", "3"))
"""Start and length of the films, seconds."""
FACES = 6


def table_of(share: float) -> list[tuple[str, ...]]:
    """The rows of meta_data.csv for about that share of the clips, all ten groups, fewer people in each."""
    table = list(rows(each=max(5, round(50 * share**0.5)), part=share))
    return [*table, *doubled(table, round(22 * share) or 1)]


def films(folder: Path) -> dict[str, list[bytes]]:
    """{type: its films}, of FACES drawn people in turn, 224 pixels wide."""
    generate(folder, identities=FACES, clips_per_identity=4)
    found = {}
    for name, (video, audio) in LABELS.items():
        clips = sorted((folder / "clips").glob(f"*_{'RF'[video]}V{'RF'[audio]}A.mp4"))
        found[name] = [_cut(clip, *cut) for cut in CUTS for clip in clips]
    return found


def _cut(clip: Path, start_s: str, length_s: str) -> bytes:
    target = clip.with_suffix(".cut.mp4")
    command = [media.ffmpeg_exe(), "-nostdin", "-y", "-v", "error", "-ss", start_s, "-t", length_s, "-i", str(clip)]
    subprocess.run([*command, "-vf", "scale=224:224", "-preset", "veryfast", str(target)], check=True)
    return target.read_bytes()


def build(root: Path, table: Sequence[tuple[str, ...]], of_type: dict[str, list[bytes]]) -> int:
    """How many files there are below `root`, which are then those that the rows name, and meta_data.csv."""
    people = sorted({cells[0] for cells in table})
    written: set[Path] = set()
    for number, cells in enumerate(table):
        path = root.joinpath(*cells[-1].split("/")[1:], cells[-2])
        if path not in written:
            path.parent.mkdir(parents=True, exist_ok=True)
            found = of_type[cells[5]]
            path.write_bytes(numbered(found[(people.index(cells[0]) + FACES * (number % 2)) % len(found)], number))
            written.add(path)
    (root / "meta_data.csv").write_text("\n".join([HEADER, *map(",".join, table)]) + "\n")
    return len(written)


@dataclass(frozen=True)
class Measured:
    """One command, from its start to its end. Memory is resident: pages that processes share count for each."""

    step: str
    seconds: float
    tree_mib: float
    """Peak of all its processes together"""
    largest_mib: float
    """Peak of the largest one"""


def run_steps(work: Path, steps: Sequence[Sequence[str]] = STEPS) -> Iterator[Measured]:
    """Runs commands in `work`, which holds params.yaml, and measures each; raises SystemExit where one fails."""
    for step in steps:
        log = work / f"{'-'.join(step)}.log"
        start, tree, largest = time.monotonic(), 0.0, 0.0
        with log.open("wb") as file:
            process = psutil.Popen([sys.executable, "-m", "pipeline.cli", *step], cwd=work, stdout=file, stderr=file)
            while process.poll() is None:
                sizes = list(_resident_mib(process))
                tree, largest = max(tree, sum(sizes)), max(largest, *sizes, 0)
                time.sleep(0.2)
        if process.returncode:
            raise SystemExit(f"{' '.join(step)} ended with {process.returncode}:\n{log.read_text()[-4000:]}")
        yield Measured(" ".join(step), time.monotonic() - start, tree, largest)


def _resident_mib(process: psutil.Popen) -> Iterator[float]:
    with suppress(psutil.NoSuchProcess):
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                yield each.memory_info().rss / 2**20


def print_line(measured: Measured) -> None:
    """Prints a row of the table."""
    minutes, tree, largest = measured.seconds / 60, measured.tree_mib, measured.largest_mib
    print(f"{measured.step:36} {minutes:8.2f} {tree:10,.0f} {largest:12,.0f}", flush=True)


def write_params(work: Path, root: Path, **changes: object) -> None:
    """`work`/params.yaml: the defaults but for the data, their split, and `changes`."""
    content = {"data": {"root": str(root), "layout": "fakeavceleb"}, "split": {"kind": "people"}, **changes}
    (work / "params.yaml").write_text(yaml.safe_dump(content))


def main() -> None:
    """Builds the trees and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1 / 20, help="of the clips (default: %(default)s); 0: none")
    parser.add_argument("--seeds", type=int, default=1, help="networks of each kind (default: %(default)s)")
    parser.add_argument("--no-whole", action="store_true", help="not the manifest of all 21,544 files")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fakeavceleb-") as folder:
        if chosen.share:
            _part(Path(folder) / "part", chosen.share, chosen.seeds)
        if not chosen.no_whole:
            _whole(Path(folder) / "whole")


def _part(work: Path, share: float, seeds: int) -> None:
    work.mkdir()
    table = table_of(share)
    files = build(work / FOLDER, table, films(work / "films"))
    print(f"{files:,} files, {len({cells[0] for cells in table})} people, ten groups, {seeds} seeds")
    write_params(work, work / FOLDER, seeds=list(range(seeds)))
    print(f"{'':36} {'minutes':>8} {'MiB in all':>10} {'of a process':>12}")
    for measured in run_steps(work):
        print_line(measured)
        if measured.step == "manifest":
            _print_split(work)
    trainings = re.findall(
        r"protocol [\w-]+: \d+ runs", "".join(path.read_text() for path in work.glob("protocol*.log"))
    )
    print("; ".join(trainings))


def _whole(work: Path) -> None:
    work.mkdir()
    clips = draw(work)
    of_type = {name: [clips.fake if any(labels) else clips.real] for name, labels in LABELS.items()}
    table = list(rows())
    files = build(work / FOLDER, [*table, *doubled(table)], of_type)
    write_params(work, work / FOLDER)
    print(f"{files:,} files, all of the table:")
    for measured in run_steps(work, [("manifest",), ("manifest",)]):  # the second one reads no file again
        print_line(measured)
    _print_split(work)


def _print_split(work: Path) -> None:
    workspace = Workspace(work / "work")
    used, unused = read_manifest(workspace.manifest), read_unused(workspace.unused)
    print(f"  {len(used):,} clips used, {len(unused):,} of people of several splits", flush=True)


if __name__ == "__main__":
    main()
