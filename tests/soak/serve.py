"""`make soak-serve`: the service under 20 uploads at a time for two minutes, good files and hostile ones among them.

    python -m tests.soak.serve [--detector work] [--clips data/synth/clips] [--hostile FOLDER] [--seconds 120]

Needs a finished work/ (make demo), or a bundle as --detector and clips that it can score. Says how many answers of
which kind there were, and what the service and its workers held in memory; fails where an answer was neither good, nor
a problem of the file sent, nor 503, where something is left on the disk, or where it is not healthy at once. Then, with
good clips only, how many a minute one worker scores, and two.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

SENDERS = 20
_RIGHT = {"good": {202}, "hostile": {202}, "cut": {400}, "large": {413}, "other field": {422}}
"""What each kind of upload may be answered, besides 503."""


@dataclass
class Tally:
    """What happened."""

    answers: Counter[str] = field(default_factory=Counter)
    """By kind of upload and status."""
    wrong: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    peak_mb: dict[str, float] = field(default_factory=dict)
    broken_off: int = 0


@contextlib.contextmanager
def service(detector: Path, spool: Path, workers: int, *, queue: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`bmnas serve`, when it answers; ended by SIGTERM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"--bundle" if detector.is_file() else "--work": detector, "--port": port, "--spool": spool}
    options |= {"--workers": workers, "--queue": queue, "--max-mb": 8, "--time-limit": 120}
    command = [sys.executable, "-m", "pipeline.cli", "serve", *(str(word) for of in options.items() for word in of)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        url = f"http://127.0.0.1:{port}"
        while not healthy(url):
            assert process.poll() is None, "the service does not start"
            time.sleep(0.2)
        yield process, url
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()


def healthy(url: str) -> bool:
    """Whether it says so within two seconds."""
    try:
        return httpx.get(f"{url}/healthz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def left_in(spool: Path) -> list[str]:
    """Uploads and temporary files: all but the lock, and the detector that the service has unpacked."""
    return [
        str(path.relative_to(spool))
        for path in spool.rglob("*")
        if path.is_file() and path.name != "lock" and "bmnas-detector-" not in str(path)
    ]


def uploads(clips: list[bytes], hostile: list[bytes], seed: int) -> Iterator[tuple[str, bytes]]:
    """(kind, content) without end: half of them good."""
    chance = random.Random(seed)  # noqa: S311
    while True:
        kind = chance.choice(["good"] * 5 + ["hostile"] * 3 + ["damaged", "cut", "large", "other field", "break off"])
        clip = chance.choice(clips)
        if kind == "hostile":
            yield kind, chance.choice(hostile)
        elif kind == "damaged":
            damaged = bytearray(clip)
            for _ in range(200):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            yield "hostile", bytes(damaged)
        else:
            yield kind, bytes(8_000_001) if kind == "large" else clip


async def send(client: httpx.AsyncClient, kind: str, content: bytes) -> httpx.Response:
    """One upload of its kind."""
    name = "other" if kind == "other field" else "file"
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="../{kind}.mp4"\r\n\r\n'.encode()

    async def pieces() -> AsyncIterator[bytes]:
        yield head
        for start in range(0, len(content), 65_536):
            yield content[start : start + 65_536]
            if kind == "break off" and start:
                raise ConnectionAbortedError
        if kind != "cut":
            yield b"\r\n--b--\r\n"

    return await client.post("/v1/score", content=pieces(), headers={"content-type": "multipart/form-data; boundary=b"})


async def sender(url: str, end: float, source: Iterator[tuple[str, bytes]], tally: Tally) -> None:
    """Sends one after the other, and waits for each answer."""
    async with httpx.AsyncClient(base_url=url, timeout=180) as client:
        while time.monotonic() < end:
            kind, content = next(source)
            try:
                told = await send(client, kind, content)
            except ConnectionAbortedError:
                tally.broken_off += 1
                continue
            except httpx.HTTPError as error:
                tally.wrong[f"{kind}: {type(error).__name__}"] += 1
                continue
            tally.answers[f"{kind}: {told.status_code}"] += 1
            if told.status_code == 503:
                await asyncio.sleep(0.5)
            elif told.status_code not in _RIGHT[kind]:
                tally.wrong[f"{kind}: {told.status_code} {told.text[:200]}"] += 1
            elif told.status_code == 202:
                await outcome(client, told.json()["id"], tally)


async def outcome(client: httpx.AsyncClient, job: str, tally: Tally) -> None:
    """Waits for the job, and counts what came of it."""
    while True:
        told = (await client.get(f"/v1/jobs/{job}", params={"wait_s": 60})).json()
        if told["result"]:
            reason = told["result"]["reason"]
            tally.outcomes[told["state"] if told["state"] == "failed" else "not scored" if reason else "scored"] += 1
            return


async def watch(pid: int, tally: Tally) -> None:
    """Keeps the largest memory of the service, and of all its workers and decoders."""
    while True:
        service = psutil.Process(pid)
        for name, processes in {"service": [service], "all below it": service.children(recursive=True)}.items():
            held = 0
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    held += process.memory_info().rss
            tally.peak_mb[name] = max(tally.peak_mb.get(name, 0), held / 1e6)
        await asyncio.sleep(0.5)


async def load(url: str, pid: int, source: Iterator[tuple[str, bytes]], *, seconds: float, senders: int) -> Tally:
    """So many senders for so long."""
    tally, end = Tally(), time.monotonic() + seconds
    watching = asyncio.create_task(watch(pid, tally))
    await asyncio.gather(*(sender(url, end, source, tally) for _ in range(senders)))
    watching.cancel()
    return tally


def storm(detector: Path, clips: list[bytes], hostile: list[bytes], *, seconds: float, workers: int = 2) -> Tally:
    """The load, and what must hold afterwards."""
    with tempfile.TemporaryDirectory(prefix="bmnas-soak-") as folder:
        spool = Path(folder)
        with service(detector, spool, workers, queue=8) as (process, url):
            source = uploads(clips, hostile, seed=0)
            tally = asyncio.run(load(url, process.pid, source, seconds=seconds, senders=SENDERS))
            assert healthy(url), "it is not healthy afterwards"
            assert left_in(spool) == [], left_in(spool)
        assert not tally.wrong, tally.wrong
        assert left_in(spool) == [], left_in(spool)
    return tally


def cpu_s(pid: int) -> float:
    """Seconds of a core that the service and all below it have used."""
    service = psutil.Process(pid)
    return sum(sum(process.cpu_times()[:4]) for process in (service, *service.children(recursive=True)))


def rate(detector: Path, clips: list[bytes], *, workers: int, seconds: float) -> tuple[float, float]:
    """Good clips a minute, and seconds of a core for each: on a busy machine only these tell one worker from two."""
    with (
        tempfile.TemporaryDirectory(prefix="bmnas-soak-") as folder,
        service(detector, Path(folder), workers, queue=8) as (process, url),
    ):
        source = (("good", clip) for clip in itertools.cycle(clips))
        asyncio.run(load(url, process.pid, source, seconds=5, senders=workers))  # warm
        start, used = time.monotonic(), cpu_s(process.pid)
        tally = asyncio.run(load(url, process.pid, source, seconds=seconds, senders=workers + 1))
        scored = tally.outcomes["scored"]
        return 60 * scored / (time.monotonic() - start), (cpu_s(process.pid) - used) / scored


def main() -> None:
    """Runs both and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", type=Path, default=Path("work"), help="a bundle, or a run's folder")
    parser.add_argument("--clips", type=Path, default=Path("data/synth/clips"), help="a folder of good clips")
    parser.add_argument("--hostile", type=Path, help="a folder of hostile files")
    parser.add_argument("--seconds", type=float, default=120)
    given = parser.parse_args()
    clips = [path.read_bytes() for path in sorted(given.clips.glob("*.mp4"))[:12]]
    hostile = [b"", b"no media", bytes(100_000), os.urandom(100_000), clips[0][: len(clips[0]) // 2]]
    if given.hostile:
        hostile += [path.read_bytes() for path in sorted(given.hostile.iterdir()) if path.stat().st_size < 8_000_000]
    tally = storm(given.detector, clips, hostile, seconds=given.seconds)
    print(json.dumps(tally.__dict__, indent=2), flush=True)
    busy = psutil.getloadavg()[0]
    one, two = (rate(given.detector, clips, workers=workers, seconds=given.seconds / 2) for workers in (1, 2))
    print(f"one worker: {one[0]:.1f} clips a minute, {one[1]:.2f} s of a core each; two: {two[0]:.1f}, {two[1]:.2f} s")
    print(f"two do {two[0] / one[0]:.2f} times as many; the machine's load before was {busy:.1f}")


if __name__ == "__main__":
    main()
