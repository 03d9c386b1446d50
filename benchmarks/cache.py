"""`make bench-cache`: how fast the feature cache is read, against the hardware and against other stores.

20,000 windows of two ResNet-34 (8 layers, fp16, 614 MB) of random numbers in a temporary folder, all of it in the
system's file cache. Names of parts measure only these: python -m benchmarks.cache loading streaming
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import h5py
import numpy as np
import pandas as pd
import torch
import webdataset
import zarr
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.side_by_side import Figure, compare, publish
from cache_schemas.features import INDEX_COLUMNS, FeatureCache, FeatureCacheWriter, IndexAttributes, VariantAttributes
from cache_schemas.features.layout import CHUNK_ROWS, SHARD_ROWS
from cache_schemas.features.loading import load_rows
from cache_schemas.features.sources import source_of

WINDOWS = 20_000
LENGTH = 8
CHANNELS = (64, 128, 256, 512)
BATCH = 64
BATCHES = 50
FEW_BATCHES = 2
"""For stores that take seconds a batch."""
RAW_BYTES = 64 * 2**20
"""What a raw read reads at once."""

Values = dict[str, NDArray[np.float16]]
"""{layer: (N, C_in, L)}"""


def main() -> None:
    """Builds the stores, measures, prints."""
    chosen = sys.argv[1:] or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        raise SystemExit(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = build(folder / "cache.zarr", np.random.default_rng(0))
        np.concatenate([x.reshape(-1) for x in values.values()]).tofile(folder / "flat.bin")
        os.sync()  # else the system writes while we measure
        cache = FeatureCache.open(folder / "cache.zarr")
        files = count_objects(Path(cache.path))
        Console().print(
            f"objects on disk, counted: {files} for {WINDOWS:,} windows, so {objects_for_a_million(files):,}"
        )
        publish("cache", [figure for part in chosen for figure in PARTS[part](cache, values, folder)])


def count_objects(path: Path) -> int:
    """Files below `path`."""
    return sum(1 for file in path.rglob("*") if file.is_file())


def objects_for_a_million(files: int) -> int:
    """A million windows have as many files besides the shards, and as many a shard."""
    variants, shards = 2, -(-WINDOWS // SHARD_ROWS)
    of_shard = variants * (len(CHANNELS) + 2)  # keys and checksums
    return files + of_shard * (-(-1_000_000 // SHARD_ROWS) - shards)


def random_batches() -> list[NDArray[np.int64]]:
    """BATCHES times BATCH rows."""
    rng = np.random.default_rng(1)
    return [rng.permutation(WINDOWS)[:BATCH] for _ in range(BATCHES)]


def build(path: Path, rng: np.random.Generator, *, windows: int = WINDOWS, chunk_rows: int = CHUNK_ROWS) -> Values:
    """{layer: (N, C_in, L)} as written to a new cache."""
    writer = FeatureCacheWriter(path)
    values: Values = {}
    rows = {}
    for modality in ("visual", "audio"):
        layers = {f"{modality}/resnet34.layer{i + 1}": c for i, c in enumerate(CHANNELS)}
        variant = VariantAttributes(
            modality=modality,
            name="resnet34",
            backbone={},
            layers=layers,
            length=LENGTH,
            dtype="float16",
            chunk_rows=chunk_rows,
        )
        of: Values = {
            layer: rng.standard_normal((windows, c, LENGTH), np.float32).astype(np.float16)
            for layer, c in layers.items()
        }
        keys = [f"{i + 1:032x}" for i in range(windows)]
        writer.add_variant(variant)
        with writer.lock():
            writer.append(variant, keys, lambda layer, start, stop, of=of: of[layer][start:stop])
        values |= of
        rows[variant] = keys
    index = pd.DataFrame({c: [{"string": "x", "bool": True}.get(d, 0)] * windows for c, d in INDEX_COLUMNS.items()})
    writer.finish(index, rows, IndexAttributes(views=1, variants=list(rows), params={}, versions={}))
    return values


def loading(cache: FeatureCache, values: Values, folder: Path) -> Iterator[Figure]:
    """The whole cache into memory."""
    flat = folder / "flat.bin"

    def ours() -> None:
        FeatureCache.open(cache.path).load()

    def copied() -> None:
        np.array(np.memmap(flat, np.float16, mode="r"))

    yield compare("load() against np.fromfile of the same bytes", ours, lambda: np.fromfile(flat, np.float16), goal=2.5)
    yield compare("load() against a copy of np.memmap", ours, copied, goal=0.9)
    shuffled = np.random.default_rng(2).permutation(WINDOWS)
    rows = {variant.path: cache.rows(variant)[shuffled] for variant in cache.variants}
    layers = {layer: cache.variant_of(layer) for layer in cache.layers}

    def gathered() -> None:
        load_rows(source_of(cache.path), layers, rows, views=False, shared=False)

    yield compare(
        "the same with rows in random order against np.fromfile",
        gathered,
        lambda: np.fromfile(flat, np.float16),
        goal=0.5,
    )


def memory(cache: FeatureCache, values: Values, folder: Path) -> Iterator[Figure]:
    """Shuffled minibatches from the loaded cache."""
    loaded = cache.load()
    whole = torch.from_numpy(np.concatenate([x.reshape(WINDOWS, -1) for x in values.values()], axis=1))
    rows = [torch.from_numpy(batch) for batch in random_batches()]

    def ours() -> None:
        for batch in rows:
            loaded.batch(batch)

    def theirs() -> None:
        for batch in rows:
            whole.index_select(0, batch)

    yield compare("minibatches of the loaded cache against one contiguous tensor", ours, theirs, goal=0.9)


def random(cache: FeatureCache, values: Values, folder: Path) -> Iterator[Figure]:
    """Random minibatches straight from the files, ours against other stores of the same rows."""
    batches = random_batches()
    few = batches[:FEW_BATCHES]

    def ours(chosen: list[NDArray[np.int64]]) -> Callable[[], None]:
        def read() -> None:
            for batch in chosen:
                cache.read(batch)

        return read

    what = f"minibatches of {BATCH} random rows from disk against"
    group: Any = zarr.open_group(cache.path, mode="r")
    arrays = [group[cache.variant_of(layer).array(layer)] for layer in cache.layers]

    def zarr_python() -> None:
        for batch in few:
            [array.oindex[np.sort(batch)] for array in arrays]

    def zarr_rows() -> None:
        for row in few[0][:8]:
            [array[int(row)] for array in arrays]

    yield compare(f"{what} zarr-python's indexing", ours(few), zarr_python, goal=200)
    yield compare("8 rows, one after another, against zarr-python", ours([few[0][:8]]), zarr_rows, goal=1)
    maps = []
    for i, x in enumerate(values.values()):
        np.save(folder / f"{i}.npy", x)
        maps.append(np.load(folder / f"{i}.npy", mmap_mode="r"))

    def memmap() -> None:
        for batch in batches:
            [x[batch] for x in maps]

    yield compare(f"{what} np.memmap", ours(batches), memmap, goal=0.5)
    with h5py.File(folder / "peer.h5", "w") as file:
        for i, x in enumerate(values.values()):
            file.create_dataset(str(i), data=x, chunks=(1, *x.shape[1:]))
    hdf5 = h5py.File(folder / "peer.h5")

    def h5() -> None:
        for batch in few:
            [hdf5[str(i)][np.sort(batch)] for i in range(len(maps))]

    yield compare(f"{what} h5py", ours(few), h5, goal=1)
    yield from _file_per_window(few, values, folder, ours(few), what)


def _file_per_window(
    few: list[NDArray[np.int64]], values: Values, folder: Path, ours: Callable[[], None], what: str
) -> Iterator[Figure]:
    for row in np.unique(np.concatenate(few)):
        torch.save({layer: torch.from_numpy(x[row]) for layer, x in values.items()}, folder / f"{row}.pt")
        np.save(folder / f"window{row}.npy", np.concatenate([x[row] for x in values.values()]))

    def pt() -> None:
        for batch in few:
            [torch.load(folder / f"{row}.pt", weights_only=True) for row in batch]

    def npy() -> None:
        for batch in few:
            [np.load(folder / f"window{row}.npy") for row in batch]

    yield compare(f"{what} a .pt file per window", ours, pt, goal=1)
    yield compare(f"{what} a .npy file per window", ours, npy, goal=1)


def streaming(cache: FeatureCache, values: Values, folder: Path) -> Iterator[Figure]:
    """One epoch of shuffled minibatches in 128 MiB, nothing kept from the epoch before.

    The raw read reads the same shards once, one after another, in pieces of RAW_BYTES: into one buffer, which it
    overwrites, or into new arrays, as np.fromfile does. Smaller buffers stay in the processor's cache; whatever is
    to be shuffled cannot.
    """
    files = sorted(Path(cache.path).rglob("c.*.0.0"))

    def ours() -> None:
        for _ in FeatureCache.open(cache.path).batches(BATCH, seed=0):
            pass

    buffer = bytearray(RAW_BYTES)

    def overwriting() -> None:
        for path in files:
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):  # type: ignore[attr-defined]
                    pass

    def keeping() -> None:
        for path in files:
            with path.open("rb", buffering=0) as file:
                while len(np.fromfile(file, np.uint8, RAW_BYTES)):
                    pass

    what = "a shuffled epoch streamed against a sequential raw read of the same files into"
    yield compare(f"{what} one buffer of 64 MiB", ours, overwriting, goal=0.6)
    yield compare(f"{what} new arrays", ours, keeping, goal=0.6)


def tars(cache: FeatureCache, values: Values, folder: Path) -> Iterator[Figure]:
    """An epoch against WebDataset: one .npy a window in tar files of SHARD_ROWS, a shuffle buffer of 1,000."""
    packed = np.concatenate([x.reshape(WINDOWS, -1) for x in values.values()], axis=1)
    with webdataset.ShardWriter(str(folder / "%04d.tar"), maxcount=SHARD_ROWS, verbose=0) as writer:
        for i, row in enumerate(packed):
            writer.write({"__key__": f"{i:07d}", "npy": row})
    urls = sorted(map(str, folder.glob("*.tar")))

    def ours() -> None:
        for _ in FeatureCache.open(cache.path).batches(BATCH, seed=0):
            pass

    def theirs() -> None:
        samples = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(1000).decode().to_tuple("npy")
        for _ in samples.batched(BATCH):
            pass

    yield compare("a shuffled epoch against WebDataset", ours, theirs, goal=1)


PARTS: dict[str, Callable[[FeatureCache, Values, Path], Iterator[Figure]]] = {
    "loading": loading,
    "memory": memory,
    "random": random,
    "streaming": streaming,
    "tars": tars,
}

if __name__ == "__main__":
    main()
