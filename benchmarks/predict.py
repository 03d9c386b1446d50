"""`make bench-predict`: how long `bmnas predict` takes to its first answer, and for each file after that.

Needs a finished run (--work, "work" unless told otherwise). The file is a drawn clip, looped to 10 s and enlarged to
720p. Processes are started ROUNDS times in turn; they are told in seconds and in seconds of the processor, decoder
included, which depend less on what else the machine does. In one process the whole of a file and its bare parts
(reading and following faces, spectrograms, backbones, networks) are measured in turn. FILES calls of one file and one
call of FILES files are extrapolated to 100.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.side_by_side import taken_s
from pipeline import media
from pipeline.detector.predict import Detector
from pipeline.faces.clip import file_faces
from pipeline.features.forward import window_rows
from pipeline.sound.clip import open_heard, window_arrays
from pipeline.synth import generate

ROOT = Path(__file__).parents[1]
ROUNDS, FILES, SECONDS = 3, 6, 10.0


def main() -> None:
    """The table and the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    work = parser.parse_args().work.resolve()
    with tempfile.TemporaryDirectory(prefix="bmnas-predict-") as folder:
        clips = _clips(Path(folder))
        rows = [*_processes(work, clips), *_in_one_process(work, clips[0])]
    table = Table("figure", "measured", "goal", "how")
    for row in rows:
        table.add_row(*map(str, row))
    Console().print(
        table, f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}", sep="\n"
    )


def _clips(folder: Path) -> list[Path]:
    """FILES clips of one content."""
    generate(folder, identities=1, clips_per_identity=1, seed=0)
    drawn = next((folder / "clips").glob("*.mp4"))
    first = folder / "clip-0.mp4"
    looped = ["-stream_loop", "-1", "-i", str(drawn), "-t", str(SECONDS)]
    coded = ["-vf", "scale=-2:720", "-c:v", "libx264", "-preset", "veryfast", "-c:a", "aac", str(first)]
    subprocess.run([media.ffmpeg_exe(), "-v", "error", *looped, *coded], check=True)  # noqa: S603
    copies = [folder / f"clip-{i}.mp4" for i in range(1, FILES)]
    for copy in copies:
        copy.write_bytes(first.read_bytes())
    return [first, *copies]


def _processes(work: Path, clips: list[Path]) -> list[tuple[str, str, str, str]]:
    commands = {
        "help": ["predict", "--help"],
        "one": ["predict", str(clips[0])],
        "several": ["predict", *map(str, clips), "--workers", "1"],
    }
    place = ["--work", str(work)]
    rounds = [{name: _run([*command, *place * (name != "help")]) for name, command in commands.items()}
              for _ in range(ROUNDS)]  # fmt: skip
    taken = {name: [statistics.median(each[name][k] for each in rounds) for k in (0, 1)] for name in commands}
    warm = [(taken["several"][k] - taken["one"][k]) / (FILES - 1) for k in (0, 1)]
    ratios = [100 * taken["one"][k] / (taken["one"][k] + 99 * warm[k]) for k in (0, 1)]

    def told(name: str) -> str:
        return f"{taken[name][0]:.2f} s, {taken[name][1]:.2f} s of the processor"

    return [
        ("predict --help", told("help"), "0.5 s", f"median of {ROUNDS} processes"),
        (f"first answer, {SECONDS:g} s of 720p", told("one"), "8 s", "the same"),
        (
            "100 files in one call beside 100 calls",
            f"{ratios[0]:.2f} times, {ratios[1]:.2f} of the processor",
            "4 times",
            f"extrapolated from 1 and {FILES}: {warm[0]:.2f} s, {warm[1]:.2f} s of the processor for each further file",
        ),
    ]


def _run(arguments: list[str]) -> tuple[float, float]:
    """(seconds, of the processor) of a process and its children."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, used


def _in_one_process(work: Path, clip: Path) -> list[tuple[str, str, str, str]]:
    with Detector.load(work, device="cpu") as detector:
        road = detector._road
        params = road._params
        with media.one_file(), open_heard(clip, params) as heard:
            sound, faces = window_arrays(heard.samples, heard.windows, params), file_faces(clip, heard.windows, params)
        (walked,) = road.walk(clip)
        sounds = sound.by_start()
        arrays = {start: sounds[start] | seen for start, seen in faces.by_start().items()}

        def spectrograms() -> None:
            with media.one_file(), open_heard(clip, params) as found:
                window_arrays(found.samples, found.windows, params)

        def picture() -> None:
            with media.one_file():
                file_faces(clip, heard.windows, params, found=heard.probe)

        def backbones() -> None:
            for backbone in road._parts.backbones:
                length, dtype = params.features.length, params.features.dtype
                window_rows(arrays, backbone, length=length, dtype=dtype, params=params.spectrograms)

        def networks() -> None:
            for _, network in detector._networks:
                network(walked.layers)

        works: dict[str, Callable[[], object]] = {
            "whole": lambda: detector.score(clip),
            "sound": spectrograms,
            "picture": picture,
            "backbones": backbones,
            "networks": networks,
        }
        rounds = [{name: taken_s(work) for name, work in works.items()} for _ in range(ROUNDS + 1)][1:]
    taken = {name: statistics.median(each[name] for each in rounds) for name in works}
    ratios = [each["whole"] / sum(seconds for name, seconds in each.items() if name != "whole") for each in rounds]
    parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in taken.items())
    return [
        ("warm, times real time", f"{SECONDS / taken['whole']:.2f}", "3", f"median of {ROUNDS}: {parts}"),
        ("warm, beside its bare parts", f"{statistics.median(ratios):.2f}", "1.25 at most", "in turn"),
    ]


if __name__ == "__main__":
    main()
