"""One run of the features stage for tests.soak.crash: small shards, and a line in a file at each step of the writer."""

from __future__ import annotations

import functools
import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import distributed.process

import pipeline.features.stage
from cache_schemas.features import FeatureCacheWriter, Geometry, VariantAttributes
from pipeline.features.stage import build_features
from pipeline.params import load_params
from pipeline.workspace import Workspace
from tests.pipeline.counting import LOG

PHASES = ("staging", "packing", "commit", "index")
SHARD_ROWS = 32


class MarkedWriter(FeatureCacheWriter):
    """Says where it is: workers are staging, or it packs rows, commits them (the last layer is read), or the index."""

    marks: Path

    def __init__(self, path: Path) -> None:
        super().__init__(path, Geometry(SHARD_ROWS, SHARD_ROWS // 4))

    def _mark(self, phase: str) -> None:
        with self.marks.open("a") as file:
            file.write(f"{time.monotonic()} {phase}\n")

    def missing(self, variant: VariantAttributes, keys: Sequence[str]) -> list[str]:
        self._mark("staging")
        return super().missing(variant, keys)

    def pack(self, variant: VariantAttributes, keys: Sequence[str], *, final: bool) -> None:
        self._mark("packing")
        super().pack(variant, keys, final=final)
        self._mark("staging")

    def append(self, variant: VariantAttributes, keys: Sequence[str], rows: Any, versions: Any = None) -> None:
        def marked(layer: str, start: int, stop: int) -> Any:
            if layer == next(iter(variant.layers)):
                self._mark("packing")
            found = rows(layer, start, stop)
            if layer == list(variant.layers)[-1] and stop in (len(keys), start // SHARD_ROWS * SHARD_ROWS + SHARD_ROWS):
                self._mark("commit")
            return found

        super().append(variant, keys, marked, versions)

    def finish(self, *args: Any, **options: Any) -> None:
        self._mark("index")
        super().finish(*args, **options)
        self._mark("finished")


def read_marks(path: Path) -> list[tuple[float, str]]:
    """(seconds, phase), in order; the last line may be cut off."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for line in lines:
        seconds, _, phase = line.partition(" ")
        if phase in (*PHASES, "finished"):
            found.append((float(seconds), phase))
    return found


class _Workers:
    """How Dask makes its workers here: forked from a server that has imported torch, which saves minutes of an hour."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self.Pipe = self._context.Pipe

    def Process(self, *, target: Any, **given: Any) -> Any:  # noqa: N802 - multiprocessing's name
        return self._context.Process(target=functools.partial(_in_group, os.getpgid(0), target), **given)


def _in_group(group: int, target: Any, *args: Any) -> None:
    """A worker in the run's process group, so that it is killed along with it."""
    os.setpgid(0, group)
    target(*args)


def run_marked(work: Path, params: Path, marks: Path, log: Path, errors: Path) -> None:
    """The stage over a workspace, in a process group of its own; log: what the backbones count."""
    os.setpgid(0, 0)
    os.environ[LOG] = str(log)
    with errors.open("w") as file:
        os.dup2(file.fileno(), 2)
    distributed.process.get_mp_context = _Workers
    MarkedWriter.marks = marks
    pipeline.features.stage.FeatureCacheWriter = MarkedWriter  # type: ignore[misc]
    build_features(Workspace(work), load_params(params))
