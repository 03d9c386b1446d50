"""`make soak-million`: a feature cache of 1,000,000 windows, with few channels.

Counts its files, times writing and opening it, and streams an epoch: by how much memory grows, and how well the order
is shuffled. Exit code 1 when there are 5,000 files or more, or when memory grows by more than what it may use.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from cache_schemas.features import INDEX_COLUMNS, FeatureCache, FeatureCacheWriter, IndexAttributes, VariantAttributes

LENGTH, BATCH = 8, 64
CHANNELS = (1, 2, 3, 4)
SLACK_BYTES, WINDOW_BYTES = 24 * 2**20, 96
"""What an epoch may need besides: Python's own, and for every window its numbers, its place, and copies of these."""


def build(path: Path, count: int) -> None:
    """`count` windows of two backbones with four layers each; the first number of every row is its window, modulo."""
    writer, rows = FeatureCacheWriter(path), {}
    keys = [f"{i + 1:032x}" for i in range(count)]
    for modality in ("visual", "audio"):
        layers = {f"{modality}/tiny.{c}": c for c in CHANNELS}
        variant = VariantAttributes(
            modality=modality, name="tiny", backbone={}, layers=layers, length=LENGTH, dtype="float16"
        )  # fmt: skip

        def made(layer: str, start: int, stop: int, layers: dict[str, int] = layers) -> NDArray[np.float16]:
            numbers = (np.arange(start, stop) % 1000).astype(np.float16)
            return np.broadcast_to(numbers[:, None, None], (stop - start, layers[layer], LENGTH))

        writer.add_variant(variant)
        with writer.lock():
            writer.append(variant, keys, made)
        rows[variant] = keys
    values = {"string": "x", "bool": True}
    index = pd.DataFrame({name: np.full(count, values.get(dtype, 0)) for name, dtype in INDEX_COLUMNS.items()})
    index["clip_id"] = [f"{i:07d}" for i in range(count)]
    writer.finish(index, rows, IndexAttributes(views=1, variants=list(rows), params={}, versions={}))


class Peak:
    """The most memory that this process has used since the block began, and how much it was then, in bytes."""

    def __enter__(self) -> Peak:
        self._process, self._end = psutil.Process(), threading.Event()
        self.before = self.most = self._process.memory_info().rss
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        while not self._end.wait(0.001):
            self.most = max(self.most, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._watcher.join()


@dataclass(frozen=True)
class Shuffling:
    """How random an order is; each of a full shuffle: about 0, about 1 / batches, about 1."""

    rank_correlation: float
    neighbours: float
    """The share of windows stored side by side that meet in one batch."""
    spread: float
    """The standard deviation of a batch's places, on average, relative to that of all."""


def shuffling(order: NDArray[np.int64]) -> Shuffling:
    """Of the order (N,) in which windows came."""
    batch_of = np.empty(len(order), np.int64)
    batch_of[order] = np.arange(len(order)) // BATCH
    whole = order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)
    return Shuffling(
        float(np.corrcoef(np.arange(len(order)), order)[0, 1]),
        float((np.diff(batch_of) == 0).mean()),
        float(whole.std(1).mean() / order.std()),
    )


@dataclass(frozen=True)
class Epoch:
    """One epoch streamed with a given memory."""

    memory_bytes: int
    seconds: float
    growth_bytes: int
    peak_bytes: int
    shuffling: Shuffling


def stream(cache: FeatureCache, memory_bytes: int) -> Epoch:
    """Streams an epoch, checks every value, and measures."""
    order = []
    with Peak() as peak:
        start = time.perf_counter()
        for positions, batch in cache.batches(BATCH, seed=0, memory_bytes=memory_bytes):
            order.append(positions)
            expected = positions % 1000
            assert all((values[:, -1, -1].numpy() == expected).all() for values in batch.values())
        seconds = time.perf_counter() - start
    joined = np.concatenate(order)
    assert (np.sort(joined) == np.arange(len(cache))).all(), "every window once"
    return Epoch(memory_bytes, seconds, peak.most - peak.before, peak.most, shuffling(joined))


@dataclass(frozen=True)
class Report:
    """What was measured."""

    files: int
    bytes: int
    write_seconds: float
    open_seconds: float
    index_seconds: float
    epochs: list[Epoch]


def measure(count: int, memories: list[int]) -> Report:
    """Writes and reads a cache of `count` windows in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        path, start = Path(folder) / "c.zarr", time.perf_counter()
        build(path, count)
        written = time.perf_counter()
        cache = FeatureCache.open(path)
        opened = time.perf_counter()
        _ = cache.index
        indexed = time.perf_counter()
        _ = [cache.rows(variant) for variant in cache.variants]
        files = [file for file in path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        times = (written - start, opened - written, indexed - opened)
        return Report(len(files), size, *times, [stream(cache, memory) for memory in memories])


def main() -> None:
    """Prints what was measured; exit code 1 when a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=1_000_000, help="how many (default: %(default)s)")
    parser.add_argument(
        "--memory-mb", type=int, nargs="+", default=[8, 64], help="of an epoch, MiB (default: %(default)s)"
    )
    chosen = parser.parse_args()
    report = measure(chosen.windows, [m * 2**20 for m in chosen.memory_mb])
    console = Console()
    console.print(f"{chosen.windows:,} windows: {report.files:,} files, {report.bytes / 1e6:.0f} MB")
    console.print(
        f"written in {report.write_seconds:.1f} s, opened in {report.open_seconds:.3f} s, "
        f"all columns of its index read in {report.index_seconds:.1f} s"
    )
    table = Table("memory", "epoch", "growth", "peak", "rank correlation", "neighbours in a batch", "spread of a batch")
    for e in report.epochs:
        table.add_row(
            f"{e.memory_bytes / 2**20:.0f} MiB", f"{e.seconds:.1f} s", f"{e.growth_bytes / 2**20:.0f} MiB",
            f"{e.peak_bytes / 2**20:.0f} MiB", f"{e.shuffling.rank_correlation:.4f}", f"{e.shuffling.neighbours:.3%}",
            f"{e.shuffling.spread:.3f}",
        )  # fmt: skip
    full = shuffling(np.random.default_rng(0).permutation(chosen.windows))
    table.add_row(
        "full shuffle", "", "", "", f"{full.rank_correlation:.4f}", f"{full.neighbours:.3%}", f"{full.spread:.3f}"
    )
    console.print(table)
    bounded = all(e.growth_bytes <= e.memory_bytes + SLACK_BYTES + WINDOW_BYTES * chosen.windows for e in report.epochs)
    raise SystemExit(not (bounded and report.files < 5000))


if __name__ == "__main__":
    main()
