"""`make bench-cache`: how fast the feature cache is read and made ready for a search, against the hardware.

8,192 windows of two ResNet-34 (8 layers, fp16, 252 MB) of random numbers in a temporary folder, all of it in the
system's file cache; then the same in caches whose chunks have other sizes: larger ones are read faster, smaller ones
fill up the end of every run with less.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.side_by_side import compare, in_turn, print_figures
from cache_schemas.features import (
    INDEX_COLUMNS,
    FeatureCache,
    FeatureCacheWriter,
    Geometry,
    IndexAttributes,
    VariantAttributes,
)
from nas.data import prepare

WINDOWS, LENGTH, CHANNELS = 8192, 8, (64, 128, 256, 512)
CHUNK_ROWS = (128, 256, 512, 1024, 4096)
LABELS = np.arange(WINDOWS) % 2
SPLIT = [("train", "train", "val", "val", "test")[i % 5] for i in range(WINDOWS)]


def main() -> None:
    """Builds the caches, measures, prints."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {rows: folder / f"{rows}.zarr" for rows in CHUNK_ROWS}
        for rows, path in paths.items():
            build(path, np.random.default_rng(0), chunk_rows=rows)
        default = paths[Geometry().chunk_rows]
        np.concatenate([x.numpy().ravel() for x in FeatureCache.open(default).load().values()]).tofile(folder / "flat")
        os.sync()  # else the system writes while we measure

        def plain() -> NDArray[np.float16]:
            return np.fromfile(folder / "flat", np.float16)

        figures = [
            compare("load() against np.fromfile of the same bytes", lambda: load(default), plain, goal=0.1),
            compare("load() and nas's checks against np.fromfile", lambda: ready(default), plain, goal=0.05),
            compare("the same of rows in random order", lambda: shuffled(default), plain, goal=0.03),
        ]
        print_figures(figures)
        size = (folder / "flat").stat().st_size
        for figure in figures:
            rate = size / figure.ours_seconds / 1e6
            Console().print(f"{figure.figure}: {size / 1e6:.0f} MB, {rate:.0f} MB/s")
        chunks(paths)


def build(path: Path, rng: np.random.Generator, *, chunk_rows: int) -> None:
    """A new cache of random numbers."""
    writer = FeatureCacheWriter(path, Geometry(chunk_rows=chunk_rows))
    keys, rows = [f"{i + 1:032x}" for i in range(WINDOWS)], {}
    for modality in ("visual", "audio"):
        layers = {f"{modality}/resnet34.layer{i + 1}": c for i, c in enumerate(CHANNELS)}
        variant = VariantAttributes(
            modality=modality, name="resnet34", backbone={}, layers=layers, length=LENGTH, dtype="float16"
        )  # fmt: skip
        of = {
            layer: rng.standard_normal((WINDOWS, LENGTH, c), np.float32).astype(np.float16)
            for layer, c in layers.items()
        }
        writer.add_variant(variant)
        with writer.lock():
            writer.append(variant, keys, lambda layer, start, stop, of=of: of[layer][start:stop])
        rows[variant] = keys
    index = pd.DataFrame({c: [{"string": "x", "bool": True}.get(d, 0)] * WINDOWS for c, d in INDEX_COLUMNS.items()})
    writer.finish(index, rows, IndexAttributes(views=1, variants=list(rows), params={}, versions={}))


def load(path: Path) -> dict[str, torch.Tensor]:
    """The whole cache."""
    return FeatureCache.open(path).load()


def ready(path: Path) -> object:
    """What stands before the first step of a search."""
    return prepare(load(path), LABELS, SPLIT, "cpu", reads="train_val")


def shuffled(path: Path) -> object:
    """As if the cache had grown, window by window, in random order."""
    return FeatureCache.open(path).read(np.random.default_rng(2).permutation(WINDOWS))


def chunks(paths: dict[int, Path]) -> None:
    """Prints what the size of chunks costs and gives."""
    work: dict[str, Callable[[Path], object]] = {"load": load, "load and nas's checks": ready}
    seconds = in_turn({(figure, rows): partial(work[figure], path) for figure in work for rows, path in paths.items()})
    table = Table("seconds, medians", *(f"{rows} rows" for rows in paths))
    for figure in work:
        table.add_row(figure, *(f"{seconds[figure, rows]:.3f}" for rows in paths))
    row_bytes = 4 * LENGTH * sum(CHANNELS)
    table.add_row("a run is filled up to multiples of, MB", *(f"{rows * row_bytes / 1e6:.1f}" for rows in paths))
    Console().print(table)


if __name__ == "__main__":
    main()
