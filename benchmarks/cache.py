"""`make bench-cache`: how fast the feature cache is read, against the hardware and against other stores.

20,000 windows of two ResNet-34 (8 layers, fp16, 614 MB) of random numbers in a temporary folder.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import h5py
import numpy as np
import pandas as pd
import torch
import zarr
from numpy.typing import NDArray

from benchmarks.side_by_side import Figure, compare, publish
from cache_schemas.features import INDEX_COLUMNS, FeatureCache, FeatureCacheWriter, IndexAttributes, VariantAttributes

WINDOWS = 20_000
LENGTH = 8
CHANNELS = (64, 128, 256, 512)
BATCH = 64
BATCHES = 50
FEW_BATCHES = 2
"""For stores that take seconds a batch."""


def main() -> None:
    """Builds the stores, measures, prints."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        values = build(folder / "cache.zarr", rng)
        flat = folder / "flat.bin"
        np.concatenate([x.reshape(-1) for x in values.values()]).tofile(flat)
        cache = FeatureCache.open(folder / "cache.zarr")
        batches = [rng.permutation(WINDOWS)[:BATCH] for _ in range(BATCHES)]
        figures = [
            *loading(cache, flat),
            from_memory(cache, values, batches),
            *from_disk(cache, values, batches, folder),
            streaming(cache, flat),
        ]
    publish("cache", figures)


def build(path: Path, rng: np.random.Generator) -> dict[str, NDArray[np.float16]]:
    """{layer: (N, C_in, L)} as written to a new cache."""
    writer = FeatureCacheWriter(path)
    values, rows = {}, {}
    for modality in ("visual", "audio"):
        layers = {f"{modality}/resnet34.layer{i + 1}": c for i, c in enumerate(CHANNELS)}
        variant = VariantAttributes(
            modality=modality, name="resnet34", backbone={}, layers=layers, length=LENGTH, dtype="float16"
        )
        of: dict[str, NDArray[np.float16]] = {
            layer: rng.standard_normal((WINDOWS, c, LENGTH), np.float32).astype(np.float16)
            for layer, c in layers.items()
        }
        keys = [f"{i + 1:032x}" for i in range(WINDOWS)]
        writer.add_variant(variant)
        with writer.lock():
            writer.append(variant, keys, lambda layer, start, stop, of=of: of[layer][start:stop])
        values |= of
        rows[variant] = keys
    index = pd.DataFrame({c: [{"string": "x", "bool": True}.get(d, 0)] * WINDOWS for c, d in INDEX_COLUMNS.items()})
    writer.finish(index, rows, IndexAttributes(views=1, variants=list(rows), params={}, versions={}))
    return values


def loading(cache: FeatureCache, flat: Path) -> list[Figure]:
    """The whole cache into memory."""
    size = flat.stat().st_size // 2
    return [
        compare(
            "load() against np.fromfile of the same bytes",
            cache_load := (lambda: FeatureCache.open(cache.path).load()),
            lambda: np.fromfile(flat, np.float16),
            goal=2.5,
        ),
        compare(
            "load() against a copy of np.memmap",
            cache_load,
            lambda: np.array(np.memmap(flat, np.float16, mode="r", shape=(size,))),
            goal=0.9,
        ),
    ]


def from_memory(cache: FeatureCache, values: dict[str, Any], batches: list[NDArray[np.int64]]) -> Figure:
    """Shuffled minibatches from the loaded cache."""
    loaded = cache.load()
    whole = torch.from_numpy(np.concatenate([x.reshape(WINDOWS, -1) for x in values.values()], axis=1))
    rows = [torch.from_numpy(batch) for batch in batches]

    def ours() -> None:
        for batch in rows:
            loaded.batch(batch)

    def theirs() -> None:
        for batch in rows:
            whole.index_select(0, batch)

    return compare("minibatches of the loaded cache against one contiguous tensor", ours, theirs, goal=0.9)


def from_disk(
    cache: FeatureCache, values: dict[str, Any], batches: list[NDArray[np.int64]], folder: Path
) -> list[Figure]:
    """Random minibatches straight from the files, ours against other stores of the same rows."""
    few = batches[:FEW_BATCHES]

    def ours(chosen: list[NDArray[np.int64]]) -> None:
        for batch in chosen:
            cache.read(batch)

    group: Any = zarr.open_group(cache.path, mode="r")
    arrays = [group[variant.array(layer)] for layer, variant in ((n, cache.variant_of(n)) for n in cache.layers)]
    maps = []
    for i, x in enumerate(values.values()):
        np.save(folder / f"{i}.npy", x)
        maps.append(np.load(folder / f"{i}.npy", mmap_mode="r"))
    with h5py.File(folder / "peer.h5", "w") as file:
        for i, x in enumerate(values.values()):
            file.create_dataset(str(i), data=x, chunks=(1, *x.shape[1:]))
    hdf5 = h5py.File(folder / "peer.h5")
    used = np.unique(np.concatenate(few))
    for row in used:
        window = {layer.replace("/", " "): torch.from_numpy(x[row]) for layer, x in values.items()}
        torch.save(window, folder / f"{row}.pt")
        np.savez(folder / f"{row}.npz", **{name: x.numpy() for name, x in window.items()})

    def zarr_python() -> None:
        for batch in few:
            [array.oindex[np.sort(batch)] for array in arrays]

    def zarr_rows() -> None:
        for row in few[0][:8]:
            [array[int(row)] for array in arrays]

    def memmap() -> None:
        for batch in batches:
            [x[batch] for x in maps]

    def h5() -> None:
        for batch in few:
            [hdf5[str(i)][np.sort(batch)] for i in range(len(maps))]

    def pt() -> None:
        for batch in few:
            [torch.load(folder / f"{row}.pt", weights_only=True) for row in batch]

    def npz() -> None:
        for batch in few:
            [dict(np.load(folder / f"{row}.npz")) for row in batch]

    what = f"minibatches of {BATCH} random rows from disk against"
    return [
        compare(f"{what} zarr-python's indexing", lambda: ours(few), zarr_python, goal=200),
        compare(f"{what} np.memmap", lambda: ours(batches), memmap, goal=0.5),
        compare(f"{what} h5py", lambda: ours(few), h5, goal=1),
        compare(f"{what} a .pt file per window", lambda: ours(few), pt, goal=1),
        compare(f"{what} an .npz file per window", lambda: ours(few), npz, goal=1),
        compare(
            "8 random rows from disk against zarr-python, row by row", lambda: ours([few[0][:8]]), zarr_rows, goal=1
        ),
    ]


def streaming(cache: FeatureCache, flat: Path) -> Figure:
    """One epoch of shuffled minibatches with bounded memory."""

    def ours() -> None:
        for _ in cache.batches(BATCH, seed=0):
            pass

    def theirs() -> None:
        with flat.open("rb", buffering=0) as file:
            buffer = bytearray(2**20)
            while file.readinto(buffer):
                pass

    return compare("streaming a shuffled epoch against a sequential raw read", ours, theirs, goal=0.6)


if __name__ == "__main__":
    main()
