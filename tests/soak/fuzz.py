"""`python -m tests.soak.fuzz --mutations 2000`: damaged media files through both doors, and what they may never do.

Five seeds (mp4, webm, avi, mkv, mpg) are drawn by ffmpeg, three more are files as phones and sites write them, where
they are at hand (`../shared/field`); each mutation flips bits, splices, cuts, swaps chunks or edits header fields. For
every file the sound is read as the spectrograms stage does and the pictures as the faces stage does. A result or a
MediaError is right. Anything else is a finding: another exception, more time than the limit, a child process left
behind, a file changed outside the work folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from cache_schemas.manifest import Clip
from cache_schemas.windows import ClipWindows
from pipeline import media
from pipeline.media import process
from pipeline.params import Params
from pipeline.shards.stage import ClipJob
from pipeline.shards.windows import frame_times
from pipeline.sound.stage import clip_spectrograms
from tests.pipeline.clips import CODECS, make_clip

SEEDS = {
    "mp4": CODECS["mp4"],
    "webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-b:v", "300k", "-c:a", "libopus"),
    "avi": CODECS["avi"],
    "mkv": ("-c:v", "libx264", "-preset", "ultrafast", "-c:a", "flac"),
    "mpg": CODECS["mpg"],
}
FIELD = Path(__file__).parents[3] / "shared" / "field"
FIELD_SEEDS = ("MOV00006.3gp", "cfr.mpeg", "roadtrip-vp92-10bit.webm")
WALL_S = 20.0
"""Limit of one reading of a file here; a file is read at most four times."""
_SLOW_S = 4 * WALL_S + 5
Mutation = Callable[[bytearray, np.random.Generator], bytearray]


def flip(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Up to 100 single bits."""
    for place in rng.integers(0, len(data), rng.integers(1, 100)):
        data[place] ^= 1 << int(rng.integers(8))
    return data


def cut(data: bytearray, rng: np.random.Generator) -> bytearray:
    """The file ends early."""
    return data[: rng.integers(0, len(data))]


def splice(data: bytearray, rng: np.random.Generator) -> bytearray:
    """A piece from elsewhere in the file is inserted."""
    start, at = rng.integers(0, len(data), 2)
    return data[:at] + data[start : start + rng.integers(1, 4096)] + data[at:]


def swap(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Two chunks change places."""
    size = int(rng.integers(1, len(data) // 4))
    a, b = sorted(rng.integers(0, len(data) - size, 2).tolist())
    if b - a >= size:
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return data


def drop(data: bytearray, rng: np.random.Generator) -> bytearray:
    """A chunk is missing."""
    at = int(rng.integers(0, len(data)))
    del data[at : at + int(rng.integers(1, 8192))]
    return data


_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def header(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Numbers near the beginning or the end, where headers are, become extreme."""
    for _ in range(rng.integers(1, 8)):
        near = int(rng.integers(0, min(2048, len(data) - 4)))
        at = near if rng.random() < 0.6 else len(data) - 4 - near
        struct.pack_into(">I" if rng.random() < 0.5 else "<I", data, at, int(rng.choice(_NUMBERS)))
    return data


MUTATIONS: dict[str, Mutation] = {f.__name__: f for f in (flip, cut, splice, swap, drop, header)}


_READER = 2
"""Processes that wait for the next file: the decoder's server and its copy."""


def _children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@dataclass
class Outcome:
    """What came of all files."""

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


def fuzz(mutations: int, folder: Path, *, seed: int = 0, seconds: float = 1e9) -> Outcome:
    """Reads up to so many damaged files under `folder`, for so long at most; see the module."""
    outside = folder / "outside"
    outside.mkdir()
    for i in range(20):
        (outside / f"{i}.mp4").write_bytes(os.urandom(100))
    inside = folder / "work"
    inside.mkdir()
    seeds = {f"clip.{kind}": make_clip(inside / f"seed.{kind}", *codec).read_bytes() for kind, codec in SEEDS.items()}
    seeds |= {name: (FIELD / name).read_bytes() for name in FIELD_SEEDS if (FIELD / name).is_file()}
    before, outcome, begin = listing(folder), Outcome(), time.monotonic()
    most = len(_children()) + _READER  # other tests' readers may be waiting here, too
    for number in range(mutations):
        if time.monotonic() - begin > seconds:
            break
        rng = np.random.default_rng((seed, number))
        kind = list(seeds)[number % len(seeds)]
        name = list(MUTATIONS)[int(rng.integers(len(MUTATIONS)))]
        path = inside / kind
        path.write_bytes(MUTATIONS[name](bytearray(seeds[kind]), rng) or b"\0")
        _one(path, f"mutation {number} ({kind}, {name})", outcome, most)
        path.unlink()
    if (after := listing(folder)) != before:
        outcome.findings.append(f"files changed: {sorted(set(after.items()) ^ set(before.items()))[:5]}")
    return outcome


def _one(path: Path, what: str, outcome: Outcome, most: int) -> None:
    start = time.monotonic()
    stages: dict[str, Callable[[Path], None]] = {"sound": _hear, "picture": _see}
    for stage, read in stages.items():
        try:
            read(path)
            outcome.counts[f"{stage}: usable"] += 1
        except media.MediaError as error:
            outcome.counts[f"{stage}: refused"] += 1
            outcome.reasons[f"{stage}: {str(error)[:60]}"] += 1
        except Exception as error:  # whatever it is, it is a finding
            outcome.findings.append(f"{what}, {stage}: {type(error).__name__}: {error}")
    took = time.monotonic() - start
    outcome.slowest_s = max(outcome.slowest_s, took)
    if took > _SLOW_S and _seconds(path) > _SLOW_S:  # twice: the machine may have been suspended once
        outcome.findings.append(f"{what}: {took:.0f} s")
    if len(left := _children()) > most:
        outcome.findings.append(f"{what}: left {left}")


def _seconds(path: Path) -> float:
    start = time.monotonic()
    for read in (_hear, _see):
        with contextlib.suppress(media.MediaError):
            read(path)
    return time.monotonic() - start


def _hear(path: Path) -> None:
    clip = Clip("0" * 16, path.name, "fuzz", "s", "", "", 0, 0, 0, "RVRA", "real", "train", path.stat().st_size)
    clip_spectrograms(ClipJob(clip, plan=""), path, Params())


def _see(path: Path) -> None:
    times = frame_times(ClipWindows("c", (0.0,), 1.0), frames=8, params=Params().windows)[0]
    with media.open_video(path, full_at_s=times.tolist(), small_height_px=24) as video:
        for frames in video.small():
            assert len(frames.times_s) == len(frames.pixels)
        full = video.full()
    assert len(full.pixels) == len(times)
    assert np.isfinite(full.times_s).all()


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """{path: (size, time of change)} of everything in it, folders too."""
    stats = {str(path): path.lstat() for path in folder.rglob("*") if path != folder / "work"}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def main() -> None:
    """Fuzzes and prints counts; exit code 1 when something is found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600, help="stop after so long")
    arguments = parser.parse_args()
    process.WALL_SECONDS = WALL_S
    if not FIELD.is_dir():
        print(f"without the seeds of {FIELD}, which is not there")
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        outcome = fuzz(arguments.mutations, Path(folder), seed=arguments.seed, seconds=arguments.seconds)
    print(json.dumps({"outcomes": outcome.counts, "reasons": outcome.reasons.most_common()}, indent=2))
    done = outcome.counts["sound: usable"] + outcome.counts["sound: refused"]
    print(f"{done} files in {time.monotonic() - start:.0f} s, the slowest {outcome.slowest_s:.1f} s")
    print("\n".join(outcome.findings) or "nothing found")
    raise SystemExit(bool(outcome.findings))


if __name__ == "__main__":
    main()
