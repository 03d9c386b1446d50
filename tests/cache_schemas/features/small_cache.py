"""A small feature cache whose values say which row they belong to."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cache_schemas.features import (
    INDEX_COLUMNS,
    FeatureCache,
    FeatureCacheWriter,
    Geometry,
    IndexAttributes,
    VariantAttributes,
    stage_piece,
)
from cache_schemas.files import digest

SHARD, LENGTH = 8, 4
GEOMETRY = Geometry(shard_rows=SHARD, chunk_rows=2)
PIECE = 3


def variant(name: str = "net", modality: Any = "visual", dtype: Any = "float16") -> VariantAttributes:
    layers = {f"{modality}/{name}.1": 3, f"{modality}/{name}.2": 64}
    return VariantAttributes(
        modality=modality, name=name, backbone={"name": name}, layers=layers, length=LENGTH, dtype=dtype
    )


VISUAL, AUDIO = variant(), variant(modality="audio")


def key_of(of: VariantAttributes, window: str, view: int = 0) -> str:
    return digest(of.path, window, view, digits=32)


def truth(of: VariantAttributes, layer: str, key: str) -> NDArray[Any]:
    """(L, C_in): what a layer holds for a key: any values that differ between keys and layers."""
    seed = int(digest(layer, key), 16)
    values = np.random.default_rng(seed).standard_normal((of.layers[layer], LENGTH))
    return np.ascontiguousarray(values.astype(of.dtype).T)  # as it was drawn for format 3


def stage(path: Path, of: VariantAttributes, keys: list[str]) -> None:
    features = {layer: np.stack([truth(of, layer, key) for key in keys]) for layer in of.layers}
    stage_piece(path, of, keys, features)


def index_of(windows: list[str]) -> pd.DataFrame:
    """clip_id and path are the window's name; a third each is in train, val, test."""
    columns: dict[str, list[Any]] = {}
    for name, dtype in INDEX_COLUMNS.items():
        columns[name] = [{"string": "x", "bool": True}.get(dtype, 0)] * len(windows)
    draws = [int(digest(window), 16) for window in windows]
    splits = [("train", "val", "test")[draw % 3] for draw in draws]
    categories = [("RVRA", "FVFA")[draw // 3 % 2] for draw in draws]
    columns |= {"clip_id": windows, "path": windows, "subject_id": windows, "split": splits, "category": categories}
    return pd.DataFrame(columns)


def attributes(variants: list[VariantAttributes], views: int = 1) -> IndexAttributes:
    return IndexAttributes(views=views, variants=variants, params={}, versions={})


def build(
    path: Path,
    windows: list[str],
    variants: tuple[VariantAttributes, ...] = (VISUAL, AUDIO),
    *,
    views: int = 1,
    stop_after: int | None = None,
) -> int:
    """One run of a features stage, killed after `stop_after` pieces; returns how many rows it computed."""
    writer, computed, pieces = FeatureCacheWriter(path, GEOMETRY), 0, 0
    rows = {}
    for of in variants:
        writer.add_variant(of)
        keys = [key_of(of, window, view) for window in windows for view in range(views)]
        missing = writer.missing(of, keys)
        for i in range(0, len(missing), PIECE):
            if pieces == stop_after:
                return computed
            stage(path, of, missing[i : i + PIECE])
            pieces += 1
            computed += len(missing[i : i + PIECE])
            writer.pack(of, keys, final=False)
        rows[of] = keys
    for of in variants:
        writer.pack(of, rows[of], final=True)
    writer.finish(index_of(windows), rows, attributes(list(variants), views))
    return computed


def check(path: Path | str, windows: list[str], variants: tuple[VariantAttributes, ...] = (VISUAL, AUDIO)) -> None:
    """The cache holds exactly these windows, in this order, with their true values."""
    cache = FeatureCache.open(path)
    assert list(cache.index["clip_id"]) == windows
    loaded = cache.load(views=True)
    assert list(loaded) == [layer for of in variants for layer in of.layers]
    for of in variants:
        for layer in of.layers:
            keys = [[key_of(of, window, view) for window in windows] for view in range(cache.views)]
            expected = np.stack([[truth(of, layer, key) for key in row] for row in keys])
            assert torch.equal(loaded[layer], torch.from_numpy(expected))


def names(count: int, start: int = 0) -> list[str]:
    return [f"w{i:03d}" for i in range(start, start + count)]
