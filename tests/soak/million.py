"""`make soak-million`: a feature cache of 1,000,000 windows, with few channels.

Counts its files, and times writing, opening and loading it. Exit code 1 when there are 5,000 files or more.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cache_schemas.features import INDEX_COLUMNS, FeatureCache, FeatureCacheWriter, IndexAttributes, VariantAttributes

LENGTH, CHANNELS = 8, (1, 2, 3, 4)
MOST_FILES = 5000


def keys_of(count: int) -> list[str]:
    """The keys of so many rows."""
    return [f"{i + 1:032x}" for i in range(count)]


def build(path: Path, count: int) -> None:
    """`count` windows of two backbones with four layers each; the first number of every row is its window, modulo."""
    writer, rows = FeatureCacheWriter(path), {}
    keys = keys_of(count)
    for modality in ("visual", "audio"):
        layers = {f"{modality}/tiny.{c}": c for c in CHANNELS}
        variant = VariantAttributes(
            modality=modality, name="tiny", backbone={}, layers=layers, length=LENGTH, dtype="float16"
        )  # fmt: skip

        def made(layer: str, start: int, stop: int, layers: dict[str, int] = layers) -> NDArray[np.float16]:
            numbers = (np.arange(start, stop) % 1000).astype(np.float16)
            return np.broadcast_to(numbers[:, None, None], (stop - start, LENGTH, layers[layer]))

        writer.add_variant(variant)
        with writer.lock():
            writer.append(variant, keys, made)
        rows[variant] = keys
    values = {"string": "x", "bool": True}
    index = pd.DataFrame({name: np.full(count, values.get(dtype, 0)) for name, dtype in INDEX_COLUMNS.items()})
    index["clip_id"] = [f"{i:07d}" for i in range(count)]
    writer.finish(index, rows, IndexAttributes(views=1, variants=list(rows), params={}, versions={}))


@dataclass(frozen=True)
class Report:
    """What was measured."""

    files: int
    bytes: int
    seconds: dict[str, float]


def measure(count: int) -> Report:
    """Writes and reads a cache of `count` windows in a temporary folder, and checks every row's window."""
    seconds: dict[str, float] = {}

    def timed(what: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = work()
        seconds[what] = time.perf_counter() - start
        return found

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.zarr"
        timed("written", lambda: build(path, count))
        cache: FeatureCache = timed("opened", lambda: FeatureCache.open(path))
        timed("all columns of its index read", lambda: cache.index)
        loaded = timed("loaded", cache.load)
        expected = (np.arange(count) % 1000).astype(np.float16)
        assert all((values[:, -1, -1].numpy() == expected).all() for values in loaded.values())
        writer, (variant, _) = FeatureCacheWriter(path), cache.variants
        assert timed("what is missing found out", lambda: writer.missing(variant, keys_of(count))) == []
        files = [file for file in path.rglob("*") if file.is_file()]
        return Report(len(files), sum(file.stat().st_size for file in files), seconds)


def main() -> None:
    """Prints what was measured; exit code 1 when there are too many files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=1_000_000, help="how many (default: %(default)s)")
    chosen = parser.parse_args()
    report = measure(chosen.windows)
    print(f"{chosen.windows:,} windows: {report.files:,} files, {report.bytes / 1e6:.0f} MB")
    print(", ".join(f"{what} in {seconds:.2f} s" for what, seconds in report.seconds.items()))
    raise SystemExit(report.files >= MOST_FILES)


if __name__ == "__main__":
    main()
