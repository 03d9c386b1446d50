"""Reading a feature cache: into memory, at random, or as a shuffled stream, from a folder or any fsspec URL.

Local shards are mapped: a row costs one copy, and all processes share one page cache. Remote ones are read in
ranges. Either way a chunk is checked against its checksum before a row of it is given out.
"""

from __future__ import annotations

import errno
import functools
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import torch
import zarr
from numpy.typing import NDArray

from cache_schemas.features.layout import (
    INDEX_COLUMNS,
    SCHEMA_VERSION,
    FeatureCacheError,
    Geometry,
    IndexAttributes,
    RootAttributes,
    VariantAttributes,
    parse,
    shard_name,
)
from cache_schemas.features.shard import REMEDY, Chunks

SPLITS = ("train", "val", "test")


class LoadedFeatures(dict[str, torch.Tensor]):
    """{layer: (N, C_in, L)} (or (V, N, C_in, L)): the layers are views of one tensor, side by side along channels."""

    def __init__(self, packed: torch.Tensor, channels: Mapping[str, int]) -> None:
        super().__init__(zip(channels, torch.split(packed, list(channels.values()), dim=-2), strict=True))
        self.packed = packed
        """(..., N, sum of C_in, L)"""
        self._channels = channels

    def batch(self, rows: torch.Tensor) -> LoadedFeatures:
        """The windows at `rows` (B,): one gather for all layers, which is twice as fast as one for each."""
        return LoadedFeatures(self.packed.index_select(-3, rows), self._channels)


class FeatureCache:
    """A finished cache, for reading. Several threads may use it at once."""

    def __init__(self, path: str, group: zarr.Group, index_name: str) -> None:
        self.path = path
        index = group.get(f"index/{index_name}")
        if not isinstance(index, zarr.Group):
            raise FeatureCacheError(f"{path}: the index {index_name} is missing: run `bmnas features` again")
        self._index = index
        self._attributes = parse(IndexAttributes, f"{path}/index/{index_name}", dict(self._index.attrs))
        self._shards: LocalShards | RemoteShards = RemoteShards(path) if "://" in path else LocalShards(Path(path))
        self._variants = {layer: variant for variant in self._attributes.variants for layer in variant.layers}
        self._columns: dict[str, NDArray[Any]] = {}

    @classmethod
    def open(cls, path: Path | str) -> FeatureCache:
        """The cache at a path or an fsspec URL (s3://bucket/features.zarr).

        For S3, endpoint and credentials are the usual AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
        (or a profile in ~/.aws); FSSPEC_S3_ENDPOINT_URL, FSSPEC_S3_KEY and FSSPEC_S3_SECRET win over them. Set them
        before the first URL is opened: file systems are kept. Raises FeatureCacheError when there is no cache, when
        no run has finished, when its schema is another, or when the server cannot be used.
        """
        url = str(path)
        with _remote_explained(url):
            try:
                group = zarr.open_group(_store(url), mode="r", zarr_format=3)
            except FileNotFoundError:
                raise FeatureCacheError(f"{url}: no feature cache: run `bmnas features` first") from None
        attributes = dict(group.attrs)
        if attributes.get("schema_version") != SCHEMA_VERSION:
            raise FeatureCacheError(
                f"{url}: not a feature cache of schema version {SCHEMA_VERSION} (it says "
                f"{attributes.get('schema_version')}): remove it, and run `bmnas features` again"
            )
        root = parse(RootAttributes, url, attributes)
        if not root.index:
            raise FeatureCacheError(f"{url}: the features stage did not finish: run `bmnas features` again")
        with _remote_explained(url):
            return cls(url, group, root.index)

    @functools.cached_property
    def index(self) -> pd.DataFrame:
        """One row a window, in manifest order; columns as in INDEX_COLUMNS."""
        return pd.DataFrame({name: self._column(name) for name in INDEX_COLUMNS})

    @property
    def variants(self) -> list[VariantAttributes]:
        """The backbones whose layers the index covers."""
        return list(self._attributes.variants)

    @property
    def index_attributes(self) -> IndexAttributes:
        """What the run that wrote the index was asked for."""
        return self._attributes

    def variant_of(self, layer: str) -> VariantAttributes:
        """The backbone that a layer belongs to."""
        return next(iter(self._by_variant([layer])))

    @property
    def views(self) -> int:
        """V, the views of every window; view 0 is the window itself."""
        return self._attributes.views

    @property
    def attributes(self) -> dict[str, Any]:
        """{views, params, versions, backbones: {variant: its identity}}, plain JSON."""
        backbones = {variant.path: variant.backbone for variant in self._attributes.variants}
        return self._attributes.model_dump(exclude={"variants"}) | {"backbones": backbones}

    @property
    def layers(self) -> dict[str, int]:
        """{layer: C_in}, visual layers first, each from shallow to deep."""
        return {layer: variant.layers[layer] for layer, variant in self._variants.items()}

    def rows(self, variant: VariantAttributes) -> NDArray[np.int64]:
        """(N, V): the rows of the variant's arrays that hold the windows' views."""
        return self._column(f"row/{variant.path}")

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self._columns:
            array = self._array(name)
            try:
                if array.nchunks_initialized < array.nchunks:  # Zarr reads a missing file as zeros
                    raise FileNotFoundError("a chunk is missing")
                self._columns[name] = np.asarray(array[...])
            except (ValueError, OSError, RuntimeError) as error:
                raise FeatureCacheError(f"{self.path}/{array.path}: {error}. {REMEDY}") from error
        return self._columns[name]

    def _array(self, name: str) -> zarr.Array[Any]:
        found = self._index.get(name)
        if not isinstance(found, zarr.Array):
            raise FeatureCacheError(f"{self.path}/{self._index.path}: column {name!r} is missing. {REMEDY}")
        return found

    def select(self, split: str | None = None, category: str | None = None) -> NDArray[np.int64]:
        """The positions in `index` of a split's and a category's windows; all where None."""
        if split is not None and split not in SPLITS:
            raise FeatureCacheError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        chosen = np.ones(len(self), bool)
        if split is not None:
            chosen &= self._column("split") == split
        if category is not None:
            categories = self._column("category")
            if category not in categories:
                raise FeatureCacheError(
                    f"{self.path}: no window of category {category!r}; it has {', '.join(sorted(set(categories)))}"
                )
            chosen &= categories == category
        return np.flatnonzero(chosen)

    def __len__(self) -> int:
        """N, the windows."""
        return int(self._array("window").shape[0])

    def load(
        self,
        split: str | None = None,
        layers: Iterable[str] | None = None,
        *,
        category: str | None = None,
        views: bool = False,
        shared: bool = False,
    ) -> LoadedFeatures:
        """{layer: (N, C_in, L)} in the order of `index`, or (V, N, C_in, L) with `views`.

        Of one split and category, or all. shared: in shared memory, so that processes which get the tensors (through
        torch.multiprocessing) use one copy. Raises FeatureCacheError for unknown names and damaged chunks.
        """
        return self._gather(self.select(split, category), layers, views=views, shared=shared)

    def read(
        self, positions: Sequence[int] | NDArray[np.int64], layers: Iterable[str] | None = None, *, view: int = 0
    ) -> dict[str, torch.Tensor]:
        """{layer: (B, C_in, L)} of the windows at some positions of `index`, straight from the shards."""
        found = {}
        for variant, layers_of in self._by_variant(layers).items():
            rows = self.rows(variant)[positions, view]
            for layer in layers_of:
                values = self._shards.read(variant.array(layer), rows, variant.geometry(layer))
                found[layer] = torch.from_numpy(values)
        return found

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        split: str | None = None,
        layers: Iterable[str] | None = None,
        memory_bytes: int = 128 * 2**20,
    ) -> Iterator[tuple[NDArray[np.int64], LoadedFeatures]]:
        """Yields one epoch of shuffled batches (positions (B,), {layer: (B, C_in, L)}), for caches beyond memory.

        Blocks of neighbouring rows come in random order into two buffers of together `memory_bytes`; batches are
        drawn at random from one while the other fills.
        """
        by_variant = self._by_variant(layers)
        chosen = [layer for layers_of in by_variant.values() for layer in layers_of]
        row_bytes = sum(v.geometry(layer).row_bytes for v, layers_of in by_variant.items() for layer in layers_of)
        rng = np.random.default_rng(seed)
        rows = self.rows(next(iter(by_variant)))[:, 0]
        buffers = plan_buffers(
            self.select(split), rows, rng, buffer_rows=max(1, memory_bytes // 2 // row_bytes // batch_size) * batch_size
        )
        with ThreadPoolExecutor(max_workers=1) as pool:
            filling = [pool.submit(self._fill, positions, chosen) for positions in buffers[:1]]
            for i, positions in enumerate(buffers):
                values = filling.pop().result()
                filling = [pool.submit(self._fill, following, chosen) for following in buffers[i + 1 : i + 2]]
                for batch in np.array_split(
                    rng.permutation(len(positions)), range(batch_size, len(positions), batch_size)
                ):
                    yield positions[batch], values.batch(torch.from_numpy(batch))

    def _fill(self, positions: NDArray[np.int64], layers: list[str]) -> LoadedFeatures:
        values = self._gather(positions, layers)
        self._shards.release()
        return values

    def _gather(
        self, positions: NDArray[np.int64], layers: Iterable[str] | None, *, views: bool = False, shared: bool = False
    ) -> LoadedFeatures:
        by_variant = self._by_variant(layers)
        channels = {layer: v.layers[layer] for v, layers_of in by_variant.items() for layer in layers_of}
        first = next(iter(by_variant))
        for variant in by_variant:
            if (variant.dtype, variant.length) != (first.dtype, first.length):
                raise FeatureCacheError(
                    f"{self.path}: {variant.path} is {variant.dtype} of length {variant.length}, {first.path} "
                    f"{first.dtype} of length {first.length}: they cannot be loaded together, name the layers of one"
                )
        lead = (self.views, len(positions)) if views else (len(positions),)
        found = LoadedFeatures(
            _empty((*lead, sum(channels.values()), first.length), first.dtype, shared=shared), channels
        )
        jobs = []
        for variant, layers_of in by_variant.items():
            rows = self.rows(variant)[positions]
            rows = (rows.T if views else rows[:, 0]).reshape(-1)
            for layer in layers_of:
                out = found[layer].numpy().reshape(len(rows), channels[layer], first.length)
                jobs += [(variant, layer, shard, out) for shard in group_by_shard(rows, variant.shard_rows)]
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for done in [pool.submit(self._copy, *job) for job in jobs]:
                done.result()
        return found

    def _copy(self, variant: VariantAttributes, layer: str, shard: ShardRows, out: NDArray[Any]) -> None:
        copy_from(self._shards.chunks(variant.array(layer), shard, variant.geometry(layer)), shard, out)

    def _by_variant(self, layers: Iterable[str] | None) -> dict[VariantAttributes, list[str]]:
        by_variant: dict[str, tuple[VariantAttributes, list[str]]] = {}
        for name in self._variants if layers is None else layers:
            if name not in self._variants:
                raise FeatureCacheError(f"{self.path}: no layer {name!r}; it has {', '.join(self._variants)}")
            variant = self._variants[name]
            by_variant.setdefault(variant.path, (variant, []))[1].append(name)
        return dict(by_variant.values())


@dataclass(frozen=True)
class ShardRows:
    """What is wanted of one shard."""

    number: int
    rows: NDArray[np.int64]
    """(n,) in the shard, ascending unless they are wanted in another order of neighbours"""
    places: NDArray[np.int64]
    """(n,) where they go in the output"""


def group_by_shard(rows: NDArray[np.int64], shard_rows: int) -> list[ShardRows]:
    """What is wanted of every shard, in ascending order; rows: (n,) of an array, in output order."""
    numbers = rows // shard_rows
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    return [
        ShardRows(int(numbers[places[0]]), rows[places] % shard_rows, places)
        for places in np.split(order, starts[1:])
        if len(places)
    ]


def copy_from(parts: list[Chunks], shard: ShardRows, out: NDArray[Any]) -> None:
    """Copies what is wanted of a shard, from the parts of it that were read, to out: (N, C_in, L)."""
    if len(parts) == 1:
        parts[0].copy_rows(shard.rows, out, shard.places)
        return
    for chunks in parts:
        inside = chunks.holds(shard.rows)
        chunks.copy_rows(shard.rows[inside], out, shard.places[inside])


BLOCK_ROWS = 128
"""Neighbouring rows that a stream reads at once: 4 chunks."""


def plan_buffers(
    positions: NDArray[np.int64], rows: NDArray[np.int64], rng: np.random.Generator, *, buffer_rows: int
) -> list[NDArray[np.int64]]:
    """Every position once, in buffers of `buffer_rows`: random blocks of neighbours in `rows` (N,), then in order.

    In row order inside a buffer, since that is how it is read fastest; who draws from it shuffles.
    """
    near = positions[np.argsort(rows[positions], kind="stable")]
    blocks = np.array_split(near, range(BLOCK_ROWS, len(near), BLOCK_ROWS))
    order = np.concatenate([blocks[i] for i in rng.permutation(len(blocks))])
    buffers = np.array_split(order, range(buffer_rows, len(order), buffer_rows))
    return [buffer[np.argsort(rows[buffer], kind="stable")] for buffer in buffers if len(buffer)]


def plan_ranges(chunks: NDArray[np.int64], *, gap: int) -> list[tuple[int, int]]:
    """(first, count) of the runs that fetch the given chunks; up to `gap` unwanted ones between two are fetched too."""
    wanted = np.unique(chunks)
    breaks = np.flatnonzero(np.diff(wanted) > gap + 1) + 1
    return [(int(run[0]), int(run[-1] - run[0]) + 1) for run in np.split(wanted, breaks) if len(run)]


class LocalShards:
    """The shards of a folder, mapped."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._arrays: dict[str, _MappedArray] = {}

    def chunks(self, array: str, shard: ShardRows, geometry: Geometry) -> list[Chunks]:
        """The whole shard."""
        return [self._array(array, geometry).shard(shard.number)]

    def read(self, array: str, rows: NDArray[np.int64], geometry: Geometry) -> NDArray[Any]:
        """(n, C_in, L): any rows of the array, in any order."""
        return self._array(array, geometry).read(rows)

    def release(self) -> None:
        """Gives the mapped pages back to the system; they stay in its page cache."""
        for mapped in self._arrays.values():
            mapped.release()

    def _array(self, array: str, geometry: Geometry) -> _MappedArray:
        if array not in self._arrays:
            self._arrays[array] = _MappedArray(self._root, array, geometry)
        return self._arrays[array]


class _MappedArray:
    """One layer's shards, each mapped when it is first asked for, and which of their chunks are checked."""

    def __init__(self, root: Path, array: str, geometry: Geometry) -> None:
        self._folder, self._name, self._geometry = root / array, array, geometry
        self._mapped: dict[int, mmap.mmap] = {}
        self._shards: dict[int, Chunks] = {}
        self._bytes: dict[int, memoryview] = {}
        numbers = [int(file.name.split(".")[1]) for file in self._folder.glob("c.*.0.0")]
        self._checked = np.zeros((1 + max(numbers, default=-1)) * geometry.shard_chunks, bool)

    def shard(self, number: int) -> Chunks:
        """The whole shard; raises FeatureCacheError when it cannot be read."""
        if number not in self._shards:
            path, geometry = self._folder / shard_name(number), self._geometry
            where = f"{self._name} ({path})"
            try:
                with path.open("rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:  # ValueError: an empty file
                raise FeatureCacheError(f"{where} cannot be read: {error}. {REMEDY}") from error
            count = max(0, (len(mapped) - geometry.index_bytes) // geometry.stride)
            checked = self._checked[number * geometry.shard_chunks :][: geometry.shard_chunks]
            self._mapped[number], self._bytes[number] = mapped, memoryview(mapped)
            self._shards[number] = Chunks(mapped, geometry, first=0, count=count, where=where, checked=checked)
        return self._shards[number]

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """As LocalShards.read. All shards are joined at once: work per shard would cost more than the copy."""
        geometry = self._geometry
        chunks = rows // geometry.chunk_rows
        if len(rows) and (chunks.max() >= len(self._checked) or not self._checked[chunks].all()):
            for group in group_by_shard(rows, geometry.shard_rows):
                self.shard(group.number).check(group.rows // geometry.chunk_rows)
        starts = chunks % geometry.shard_chunks * geometry.stride + rows % geometry.chunk_rows * geometry.row_bytes
        numbers, ends = rows // geometry.shard_rows, starts + geometry.row_bytes
        parts = zip(numbers.tolist(), starts.tolist(), ends.tolist(), strict=True)
        joined = bytearray().join([self._bytes[number][start:end] for number, start, end in parts])
        return np.frombuffer(joined, geometry.dtype).reshape(-1, *geometry.row_shape)

    def release(self) -> None:
        """As LocalShards.release."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._mapped.values():
                mapped.madvise(mmap.MADV_DONTNEED)


class RemoteShards:
    """The shards below an fsspec URL, read in ranges of chunks."""

    def __init__(self, url: str) -> None:
        self._files, self._root = fsspec.core.url_to_fs(url)

    def chunks(self, array: str, shard: ShardRows, geometry: Geometry) -> list[Chunks]:
        """The parts of the shard that hold the wanted rows."""
        path = f"{self._root}/{array}/{shard_name(shard.number)}"
        gap = _GAP_BYTES // geometry.stride
        runs = plan_ranges(shard.rows // geometry.chunk_rows, gap=gap)
        starts = [first * geometry.stride for first, _ in runs]
        ends = [(first + count) * geometry.stride for first, count in runs]
        where = f"{array} ({path})"
        with _remote_explained(self._files.unstrip_protocol(path)):
            try:
                parts = self._files.cat_ranges([path] * len(runs), starts, ends, on_error="raise")
            except (FileNotFoundError, PermissionError) as error:
                raise FeatureCacheError(f"{where} cannot be read: {error}. {REMEDY}") from error
            except OSError as error:
                if error.errno != errno.EINVAL:  # what a range beyond the end of an object gives
                    raise
                raise FeatureCacheError(f"{where} is cut off: {error}. {REMEDY}") from error
        return [
            Chunks(bytes(part), geometry, first=first, count=count, where=where)
            for part, (first, count) in zip(parts, runs, strict=True)
        ]

    def read(self, array: str, rows: NDArray[np.int64], geometry: Geometry) -> NDArray[Any]:
        """(n, C_in, L): any rows of the array, in any order."""
        out = np.empty((len(rows), *geometry.row_shape), geometry.dtype)
        for shard in group_by_shard(rows, geometry.shard_rows):
            copy_from(self.chunks(array, shard, geometry), shard, out)
        return out

    def release(self) -> None:
        """Nothing is kept."""


_GAP_BYTES = 2**20
"""What one more request costs, in bytes that could be read in the meantime."""


def _store(url: str) -> Any:
    if "://" not in url:
        return Path(url)
    protocol = url.partition("://")[0]
    try:
        return zarr.storage.FsspecStore.from_url(url, read_only=True)
    except ImportError as error:
        extra = 'pip install "bmnas[s3]"' if protocol == "s3" else "install the package that it names"
        raise FeatureCacheError(f"{url}: {error}: {extra}") from None


@contextmanager
def _remote_explained(url: str) -> Iterator[None]:
    """Says which URL could not be read: every file system raises errors of its own for a server out of reach."""
    try:
        yield
    except FeatureCacheError:
        raise
    except Exception as error:
        if "://" not in url:
            raise
        raise FeatureCacheError(
            f"{url} cannot be read: {error or type(error).__name__}. Check the URL, the network, and the endpoint and "
            "credentials in the environment (for S3: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        ) from error


def _empty(shape: tuple[int, ...], dtype: str, *, shared: bool) -> torch.Tensor:
    if shared:
        tensor: torch.Tensor = torch.empty(shape, dtype=getattr(torch, dtype)).share_memory_()  # type: ignore[no-untyped-call]
        return tensor
    return torch.from_numpy(np.empty(shape, dtype))  # numpy asks the system for huge pages: twice as fast to fill
