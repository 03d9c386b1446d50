"""Reading a feature cache, from a folder or any fsspec URL."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import zarr
from numpy.typing import NDArray

from cache_schemas.features.layout import (
    INDEX_COLUMNS,
    KEYS,
    REMEDY,
    FeatureCacheError,
    IndexAttributes,
    RootAttributes,
    VariantAttributes,
    attributes_digest,
    bytes_text,
    parse,
)
from cache_schemas.features.stored import StoredRows, explained, open_root, read_rows
from cache_schemas.manifest import SPLITS


class FeatureCache:
    """A finished cache, for reading. Several threads may use it at once.

    index_name: another whenever the cache holds other windows, labels or features.
    """

    def __init__(self, path: str, group: zarr.Group, index_name: str, root: RootAttributes) -> None:
        self.path, self.index_name = path, index_name
        self._group, self._root = group, root
        where = f"{path}/index/{index_name}"
        index = group.get(f"index/{index_name}")
        if not isinstance(index, zarr.Group):
            raise FeatureCacheError(f"{where} is missing: run `bmnas features` again")
        self._index = index
        self.index_attributes = parse(IndexAttributes, where, dict(self._index.attrs))
        """What the run that wrote the index was asked for."""
        if not index_name.startswith(attributes_digest(self.index_attributes)):
            raise FeatureCacheError(f"{where}/zarr.json is damaged: it does not fit the index's name. {REMEDY}")
        variants = {layer: variant for variant in self.index_attributes.variants for layer in variant.layers}
        self._variants = {layer: variants[layer] for layer in self.index_attributes.layers or variants}
        self._columns: dict[str, NDArray[Any]] = {}
        self._stored: dict[str, StoredRows] = {}

    @classmethod
    def open(cls, path: Path | str, index_name: str = "") -> FeatureCache:
        """The cache at a path or an fsspec URL (s3://bucket/features.zarr), by its index or another one.

        For S3, endpoint and credentials are the usual AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
        (or a profile in ~/.aws); FSSPEC_S3_ENDPOINT_URL, FSSPEC_S3_KEY and FSSPEC_S3_SECRET win over them. Set them
        before the first URL is opened: file systems are kept. Raises FeatureCacheError when there is no cache, when
        no run has finished, when its schema is another, or when the server cannot be used.
        """
        url = str(path)
        group, root = open_root(url)
        name = index_name or root.index
        if not name:
            raise FeatureCacheError(f"{url}: the features stage did not finish: run `bmnas features` again")
        with explained(url):
            return cls(url, group, name, root)

    def control(self) -> FeatureCache | None:
        """The same windows in the same order by the same backbones with random weights; None: see `no_control`."""
        if self.index_name != self._root.index or not self._root.control:
            return None
        with explained(self.path):
            return FeatureCache(self.path, self._group, self._root.control, RootAttributes())

    @property
    def no_control(self) -> str:
        """Why there is no control."""
        return self._root.no_control or "no run has computed features of random weights: run `bmnas features`"

    @functools.cached_property
    def index(self) -> pd.DataFrame:
        """One row a window, in manifest order; columns as in INDEX_COLUMNS."""
        return pd.DataFrame({name: self.column(name) for name in INDEX_COLUMNS})

    @property
    def variants(self) -> list[VariantAttributes]:
        """The backbones whose layers the index covers."""
        return list(self.index_attributes.variants)

    def variant_of(self, layer: str) -> VariantAttributes:
        """The backbone that a layer belongs to."""
        return self._variants[self._chosen([layer])[0]]

    @property
    def views(self) -> int:
        """V, the views of every window; view 0 is the window itself."""
        return self.index_attributes.views

    @property
    def pseudo(self) -> int:
        """P, the pseudo-fakes of every window of a real clip; no part of `index` or of the views."""
        return self.index_attributes.pseudo

    @property
    def attributes(self) -> dict[str, Any]:
        """{views, params, versions, backbones: {variant: its identity}}, plain JSON."""
        backbones = {variant.path: variant.backbone for variant in self.index_attributes.variants}
        return self.index_attributes.model_dump(exclude={"variants", "layers"}) | {"backbones": backbones}

    @property
    def layers(self) -> dict[str, int]:
        """{layer: C_in}, visual layers first, each from shallow to deep."""
        return {layer: variant.layers[layer] for layer, variant in self._variants.items()}

    def rows(self, variant: VariantAttributes) -> NDArray[np.int64]:
        """(N, V + P): the rows of the variant's arrays that hold the windows' views, and their pseudo-fakes."""
        return self.column(f"row/{variant.path}")

    def own(self, variant: VariantAttributes) -> NDArray[np.bool_]:
        """(N, V + P): where that is a row of its own, not view 0's."""
        rows = self.rows(variant)
        found: NDArray[np.bool_] = (rows != rows[:, :1]) | (np.arange(rows.shape[1]) < self.views)
        return found

    def stored(self, variant: VariantAttributes) -> StoredRows:
        """The rows of a backbone, those of other indexes included."""
        if variant.path not in self._stored:
            self._stored[variant.path] = StoredRows(self.path, variant, self._group)
        return self._stored[variant.path]

    def row_keys(self, variant: VariantAttributes) -> NDArray[np.uint8]:
        """(N, V + P, KEY_BYTES): what names the content of what `rows` says, wherever it lies."""
        where = f"{self.path}/{variant.path}/{KEYS}"
        with explained(where):
            keys: Any = self._group[f"{variant.path}/{KEYS}"][...]  # type: ignore[index]
            found: NDArray[np.uint8] = keys[self.rows(variant)]
        if not found.any(axis=2).all():  # Zarr reads a missing file as zeros
            raise FeatureCacheError(f"{where}: the keys of rows that the index names are missing. {REMEDY}")
        return found

    def column(self, name: str) -> NDArray[Any]:
        """A column of the index (N,), or row/<variant> (N, V + P)."""
        if name not in self._columns:
            where = f"{self.path}/{self._index.path}/{name}"
            with explained(where):
                array = self._index.get(name)
                if not isinstance(array, zarr.Array):
                    raise FeatureCacheError(f"{where} is missing. {REMEDY}")
                # Zarr reads a missing file as zeros, and believes a damaged shape; a column is one chunk.
                if array.nchunks_initialized < array.nchunks:
                    raise FeatureCacheError(f"{where}: a chunk is missing. {REMEDY}")
                kind = INDEX_COLUMNS.get(name, "int64")
                declared = ("uint8" if kind == "string" else kind, tuple(max(1, size) for size in array.shape))
                if (str(array.dtype), array.chunks) != declared:
                    raise FeatureCacheError(f"{where}/zarr.json is damaged: not a column of an index. {REMEDY}")
                values: Any = array[...]
                self._columns[name] = bytes_text(values) if kind == "string" else np.asarray(values)
        return self._columns[name]

    def select(self, split: str | None = None, category: str | None = None) -> NDArray[np.int64]:
        """The positions in `index` of a split's and a category's windows; all where None."""
        chosen = np.ones(len(self), bool)
        if split is not None:
            if split not in SPLITS:
                raise FeatureCacheError(f"split {split!r} is not one of {', '.join(SPLITS)}")
            chosen &= self.column("split") == split
        if category is not None:
            categories = self.column("category")
            if category not in categories:
                raise FeatureCacheError(
                    f"{self.path}: no window of category {category!r}; it has {', '.join(sorted(set(categories)))}"
                )
            chosen &= categories == category
        return np.flatnonzero(chosen)

    def __len__(self) -> int:
        """N, the windows."""
        return len(self.column("window"))

    def load(
        self,
        split: str | None = None,
        layers: Iterable[str] | None = None,
        *,
        category: str | None = None,
        views: bool = False,
    ) -> dict[str, torch.Tensor]:
        """{layer: (N, L, C_in)} in the order of `index`, or (V, N, L, C_in) with `views`; contiguous, in memory.

        Of one split and category, or all. Where a window has no sound (`has_audio`), its audio features are zeros:
        what `read` gives is how silence sounds. Raises FeatureCacheError for unknown names and damaged chunks.
        """
        chosen = self.select(split, category)
        loaded = self.read(chosen, layers, views=range(self.views if views else 1))
        mute = np.flatnonzero(~self.column("has_audio")[chosen])
        for layer, x in loaded.items():
            if layer.startswith("audio/") and len(mute):
                x[:, mute] = 0
        return loaded if views else {layer: x[0] for layer, x in loaded.items()}

    def pseudo_of(self) -> NDArray[np.int64]:
        """(M,): the position in `index` of the window that each pseudo-fake is made of.

        Draw by draw, each in the order of `index`. Windows of which nothing is changed have none.
        """
        at = np.any([self.own(variant)[:, self.views :].any(axis=1) for variant in self.variants], axis=0)
        return np.tile(np.flatnonzero(at), self.pseudo)

    def load_pseudo(self) -> tuple[NDArray[np.int64], dict[str, torch.Tensor]]:
        """(`pseudo_of`, {layer: (M, L, C_in)}): the pseudo-fakes."""
        of = self.pseudo_of()
        read = self.read(np.unique(of), views=range(self.views, self.views + self.pseudo))
        return of, {layer: x.flatten(0, 1) for layer, x in read.items()}

    def read(
        self,
        positions: Sequence[int] | NDArray[np.int64],
        layers: Iterable[str] | None = None,
        *,
        views: Sequence[int] = (0,),
    ) -> dict[str, torch.Tensor]:
        """{layer: (chosen views, B, L, C_in)} of the windows at some positions of `index`.

        views: below V; from there on to V + P they are the pseudo-fakes.
        """
        chosen, at = self._chosen(layers), np.asarray(positions, np.int64)
        variants = {layer: self._variants[layer] for layer in chosen}
        rows = {v: self.rows(v)[at][:, list(views)].T.ravel() for v in dict.fromkeys(variants.values())}
        stored = {layer: self.stored(variant) for layer, variant in variants.items()}
        found = read_rows(stored, {layer: rows[variant] for layer, variant in variants.items()})
        return {layer: torch.from_numpy(x.reshape(len(views), len(at), *x.shape[1:])) for layer, x in found.items()}

    def _chosen(self, layers: Iterable[str] | None) -> list[str]:
        """The layers, each once; raises FeatureCacheError for an unknown name."""
        chosen = list(self._variants if layers is None else dict.fromkeys(layers))
        for name in chosen:
            if name not in self._variants:
                raise FeatureCacheError(f"{self.path}: no layer {name!r}; it has {', '.join(self._variants)}")
        if not chosen:
            raise FeatureCacheError(f"{self.path}: no layer was asked for; it has {', '.join(self._variants)}")
        return chosen
