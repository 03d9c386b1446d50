"""Reading a feature cache: into memory, at random, or as a shuffled stream, from a folder or any fsspec URL."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import zarr
from numpy.typing import NDArray

from cache_schemas.features.gather import Gather
from cache_schemas.features.layout import (
    INDEX_COLUMNS,
    KEYS,
    FeatureCacheError,
    IndexAttributes,
    VariantAttributes,
    attributes_digest,
    parse,
)
from cache_schemas.features.loading import LoadedFeatures, load_rows
from cache_schemas.features.shard import REMEDY
from cache_schemas.features.sources import explained, open_root, source_of
from cache_schemas.features.stored import StoredRows, last_rows
from cache_schemas.features.streaming import Stream

SPLITS = ("train", "val", "test")


class FeatureCache:
    """A finished cache, for reading. Several threads may use it at once.

    index_name: another whenever the cache holds other windows, labels or features.
    """

    def __init__(self, path: str, group: zarr.Group, index_name: str) -> None:
        self.path, self.index_name = path, index_name
        where = f"{path}/index/{index_name}"
        index = group.get(f"index/{index_name}")
        if not isinstance(index, zarr.Group):
            raise FeatureCacheError(f"{where} is missing: run `bmnas features` again")
        self._group, self._index = group, index
        self._attributes = parse(IndexAttributes, where, dict(self._index.attrs))
        if not index_name.startswith(attributes_digest(self._attributes)):
            raise FeatureCacheError(f"{where}/zarr.json is damaged: it does not fit the index's name. {REMEDY}")
        self._source = source_of(path)
        self._gathers: dict[tuple[str, ...], Gather] = {}
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
        group, root = open_root(url)
        if not root.index:
            raise FeatureCacheError(f"{url}: the features stage did not finish: run `bmnas features` again")
        with explained(url):
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
        return self._chosen([layer])[layer]

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

    def row_keys(self, variant: VariantAttributes) -> NDArray[np.uint8]:
        """(N, V, KEY_BYTES): what names the content of every window's views, wherever their rows lie."""
        where = f"{self.path}/{variant.path}/{KEYS}"
        with explained(where):
            keys: Any = self._group[f"{variant.path}/{KEYS}"][...]  # type: ignore[index]
            found: NDArray[np.uint8] = keys[self.rows(variant)]
        if not found.any(axis=2).all():  # Zarr reads a missing file as zeros
            raise FeatureCacheError(f"{where}: the keys of rows that the index names are missing. {REMEDY}")
        return found

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self._columns:
            where = f"{self.path}/{self._index.path}/{name}"
            with explained(where):
                array = self._index.get(name)
                if not isinstance(array, zarr.Array):
                    raise FeatureCacheError(f"{where} is missing. {REMEDY}")
                # Zarr reads a missing file as zeros, and believes a damaged shape; a column is one chunk.
                if array.nchunks_initialized < array.nchunks:
                    raise FeatureCacheError(f"{where}: a chunk is missing. {REMEDY}")
                declared = (INDEX_COLUMNS.get(name, "int64"), tuple(max(1, size) for size in array.shape))
                if (array.metadata.to_dict()["data_type"], array.chunks) != declared:
                    raise FeatureCacheError(f"{where}/zarr.json is damaged: not a column of an index. {REMEDY}")
                self._columns[name] = np.asarray(array[...])
        return self._columns[name]

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
        return len(self._column("window"))

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

        Of one split and category, or all. Where the rows lie side by side, the tensors are the files' own pages, which
        all processes share; writing to a tensor changes it alone. shared: in shared memory, so that processes which
        get the tensors (through torch.multiprocessing) use one copy. Raises FeatureCacheError for unknown names and
        damaged chunks.
        """
        chosen, positions = self._chosen(layers), self.select(split, category)
        wanted = slice(None) if views else slice(1)
        rows = {variant.path: self.rows(variant)[positions, wanted] for variant in chosen.values()}
        return load_rows(self._source, chosen, rows, views=views, shared=shared)

    def read(
        self, positions: Sequence[int] | NDArray[np.int64], layers: Iterable[str] | None = None, *, view: int = 0
    ) -> dict[str, torch.Tensor]:
        """{layer: (B, C_in, L)} of the windows at some positions of `index`, straight from the shards."""
        chosen = self._chosen(layers)
        rows = {variant.path: self.rows(variant)[positions, view] for variant in chosen.values()}
        stored, gather = self._reading(chosen, rows)
        stored.ensure({layer: rows[v.path] // v.chunk_rows for layer, v in chosen.items()})
        return gather(torch.from_numpy(np.stack(list(rows.values()), axis=1)))

    def _reading(
        self, chosen: Mapping[str, VariantAttributes], rows: Mapping[str, NDArray[np.int64]]
    ) -> tuple[StoredRows, Gather]:
        """The memory that rows are read through: kept where it is the system's file cache, else for one call."""
        names = tuple(chosen)
        if names in self._gathers:
            return self._lasting, self._gathers[names]
        stored = self._lasting if self._source.lasting else StoredRows(self._source, chosen, last_rows(rows))
        paths = list(rows)
        columns = {layer: paths.index(variant.path) for layer, variant in chosen.items()}
        gather = Gather(stored.bytes, {layer: stored.place(layer) for layer in chosen}, columns)
        if self._source.lasting:
            self._gathers[names] = gather
        return stored, gather

    @functools.cached_property
    def _lasting(self) -> StoredRows:
        rows = {variant.path: self.rows(variant) for variant in self.variants}
        return StoredRows(self._source, self._variants, last_rows(rows))

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        split: str | None = None,
        layers: Iterable[str] | None = None,
        memory_bytes: int = 128 * 2**20,
    ) -> Iterator[tuple[NDArray[np.int64], dict[str, torch.Tensor]]]:
        """Yields one epoch of shuffled batches (positions (B,), {layer: (B, C_in, L)}), for caches beyond memory.

        Blocks of neighbouring rows in random order fill one of two buffers while batches are drawn at random from
        the other; what the epoch holds in memory at any time is `memory_bytes`, or two batches if that is more.
        """
        chosen = self._chosen(layers)
        rows = {variant.path: self.rows(variant)[:, 0] for variant in chosen.values()}
        stream = Stream(self._source, chosen, rows, memory_bytes)
        return stream.epoch(self.select(split), batch_size, np.random.default_rng(seed))

    def _chosen(self, layers: Iterable[str] | None) -> dict[str, VariantAttributes]:
        """{layer: its backbone}; raises FeatureCacheError for an unknown name."""
        chosen: dict[str, VariantAttributes] = {}
        for name in self._variants if layers is None else layers:
            if name not in self._variants:
                raise FeatureCacheError(f"{self.path}: no layer {name!r}; it has {', '.join(self._variants)}")
            chosen[name] = self._variants[name]
        if not chosen:
            raise FeatureCacheError(f"{self.path}: no layer was asked for; it has {', '.join(self._variants)}")
        return chosen
