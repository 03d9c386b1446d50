"""`make bench-chunks`: how many rows a chunk of the feature cache should have.

The same windows of two ResNet-34 in caches that differ in this only, measured in turn. A chunk is what one checksum
covers: larger ones are checked faster as a whole, smaller ones cost a random reader less when it meets them first.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.cache import BATCH, build
from cache_schemas.features import FeatureCache

WINDOWS = 8192
CHUNK_ROWS = (32, 64, 128, 256, 512)
RUNS = 7
BATCHES = 50


def load(path: Path) -> None:
    """The whole cache."""
    FeatureCache.open(path).load()


def epoch(path: Path) -> None:
    """Shuffled minibatches of all windows, in 64 MiB."""
    for _ in FeatureCache.open(path).batches(BATCH, seed=0, memory_bytes=64 * 2**20):
        pass


def first_batches(path: Path) -> None:
    """Random minibatches of a cache that was just opened: most of their chunks are met for the first time."""
    cache, rng = FeatureCache.open(path), np.random.default_rng(0)
    for _ in range(BATCHES):
        cache.read(rng.integers(0, WINDOWS, BATCH))


FIGURES: dict[str, Callable[[Path], None]] = {"load": load, "epoch": epoch, f"first {BATCHES} batches": first_batches}


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {rows: Path(folder) / f"{rows}.zarr" for rows in CHUNK_ROWS}
        for rows, path in paths.items():
            build(path, np.random.default_rng(0), windows=WINDOWS, chunk_rows=rows)
        os.sync()
        seconds: dict[tuple[str, int], list[float]] = {}
        for run in range(RUNS + 1):
            for figure, work in FIGURES.items():
                for rows, path in paths.items():
                    start = time.perf_counter()
                    work(path)
                    if run:  # the first does not count
                        seconds.setdefault((figure, rows), []).append(time.perf_counter() - start)
    table = Table("seconds, medians", *(f"{rows} rows" for rows in CHUNK_ROWS))
    for figure in FIGURES:
        table.add_row(figure, *(f"{statistics.median(seconds[figure, rows]):.4f}" for rows in CHUNK_ROWS))
    Console().print(table)


if __name__ == "__main__":
    main()
