"""The feature cache: one sharded Zarr v3 hierarchy, computed once, read by every search.

    visual/<layer>, audio/<layer>   (rows, C_in, L)   one shard = `shard_windows` rows, written whole by one task
    rows/key                        (rows,)           what a row holds; "" where nothing is finished yet
    index/<column>                  (N,)              the windows in manifest order; `row` points into the arrays

Physical order is history, logical order is the manifest's. A row counts from the moment its key is written, and
that comes after all its layers: a killed run leaves rows without keys, and they are computed again. Any Zarr
reader can open it; the attributes say how the features were made.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import zarr
from numpy.typing import NDArray

SCHEMA_VERSION = 1

INDEX_COLUMNS: Mapping[str, str] = {
    "row": "int64",
    "clip_id": "string",
    "path": "string",
    "window": "int64",
    "start_s": "float64",
    "label": "int64",
    "video_label": "int64",
    "audio_label": "int64",  # -1: no sound track
    "category": "string",
    "method": "string",
    "subject_id": "string",
    "dataset": "string",
    "split": "string",
    "has_audio": "bool",
    "duration_s": "float64",
    "leading_silence_s": "float64",
    "loudness_db": "float64",
    "width_px": "int64",
    "height_px": "int64",
    "fps": "float64",
    "file_bytes": "int64",
}
"""Column -> dtype. From duration_s on: clip properties, kept for the shortcut audit."""


class FeatureCacheError(ValueError):
    """The cache cannot be used; the message names the path, what is wrong, and the way out."""


@dataclass(frozen=True)
class Block:
    """One task: rows [start, start + len(keys)) of every layer; only `new` of them are to be computed."""

    start: int
    keys: tuple[str, ...]
    new: tuple[int, ...]
    """Offsets into `keys`."""


def plan_blocks(present: Sequence[str], wanted: Sequence[str], shard_windows: int) -> list[Block]:
    """The blocks that bring the `wanted` keys (in order, each once) into a cache whose rows hold `present` keys.

    Missing keys take the free rows in ascending order, so that a run which was killed, whatever it had finished,
    ends with the same rows as one that was not.
    """
    have = set(present)
    missing = [key for key in dict.fromkeys(wanted) if key not in have]
    keys = list(present) + [""] * (-len(present) % shard_windows)
    free = [row for row, key in enumerate(keys) if not key]
    grow = max(0, len(missing) - len(free))
    added = math.ceil(grow / shard_windows) * shard_windows
    free += range(len(keys), len(keys) + added)
    keys += [""] * added
    new: dict[int, list[int]] = {}
    for row, key in zip(free, missing, strict=False):
        keys[row] = key
        new.setdefault(row // shard_windows, []).append(row % shard_windows)
    return [
        Block(b * shard_windows, tuple(keys[b * shard_windows : (b + 1) * shard_windows]), tuple(offsets))
        for b, offsets in sorted(new.items())
    ]


class FeatureCacheWriter:
    """Grows a cache. One process plans and commits; any number of tasks call `write_block` for their own block."""

    def __init__(self, path: Path, layers: Mapping[str, int], attributes: Mapping[str, Any]) -> None:
        """Opens the cache at `path`, or begins one.

        layers: {"visual/NAME" or "audio/NAME": C_in}. `attributes` must hold `length`, `dtype` and `shard_windows`;
        a cache with other attributes was made in another way: it is removed and begun anew.
        """
        self.path = path
        self.attributes = {"schema": "bmnas.features", "schema_version": SCHEMA_VERSION, **attributes}
        self.shard_windows = int(attributes["shard_windows"])
        if path.exists() and _read_identity(path) != self.attributes:
            shutil.rmtree(path)
        group = zarr.open_group(path, mode="a", zarr_format=3)
        for partial in path.rglob("*.partial"):  # what a killed writer left
            partial.unlink()
        if "rows" not in group:
            self._create(group, layers)
        group.attrs.update(complete=False)
        self._rows = _array(group, "rows/key")
        self._arrays = [_array(group, name) for name in layers]

    def _create(self, group: zarr.Group, layers: Mapping[str, int]) -> None:
        length, dtype, shard = int(self.attributes["length"]), str(self.attributes["dtype"]), self.shard_windows
        for name, channels in layers.items():
            group.create_array(
                name,
                shape=(0, channels, length),
                chunks=(math.gcd(shard, 8), channels, length),
                shards=(shard, channels, length),
                dtype=dtype,
                compressors=None,  # half-precision features shrink by a tenth and then read at a third of the speed
                fill_value=0,
                dimension_names=("row", "channel", "position"),
            )
        # The keys come last: their presence says that every array above is there.
        group.create_array("rows/key", shape=(0,), chunks=(shard,), dtype="string", fill_value="")
        group.attrs.update(self.attributes)

    def plan(self, wanted: Sequence[str]) -> list[Block]:
        """The blocks still to be computed for the `wanted` row keys; the arrays grow to hold them."""
        blocks = plan_blocks(list(_read(self._rows)), wanted, self.shard_windows)
        rows = max([self._rows.shape[0], *(block.start + self.shard_windows for block in blocks)])
        for array in self._arrays:
            array.resize((rows, *array.shape[1:]))
        self._rows.resize((rows,))
        return blocks

    def commit(self, block: Block) -> None:
        """Declares the block's rows finished. One object is replaced: it happens whole or not at all."""
        self._rows[block.start : block.start + len(block.keys)] = np.array(block.keys, dtype=object)

    def finish(self, index: pd.DataFrame, keys: Sequence[str]) -> None:
        """Writes the index, one row a window in manifest order; keys: the row key of each."""
        position = {key: row for row, key in enumerate(_read(self._rows)) if key}
        index = index.assign(row=[position[key] for key in keys])
        group = zarr.open_group(self.path, mode="a", zarr_format=3)
        for name, dtype in INDEX_COLUMNS.items():
            values = index[name].to_numpy(dtype=object if dtype == "string" else dtype)
            column = group.create_array(
                f"index/{name}", shape=values.shape, chunks=(max(1, len(values)),), dtype=dtype, overwrite=True
            )
            column[:] = values
        group.attrs.update(complete=True)


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """The array; raises FeatureCacheError when the hierarchy lacks it."""
    found = group.get(name)
    if not isinstance(found, zarr.Array):
        raise FeatureCacheError(f"{group.store_path}: array {name!r} is missing: remove the cache and make it again")
    return found


def _read(array: zarr.Array[Any], rows: slice = slice(None)) -> NDArray[Any]:
    return np.asarray(array[rows])


def _read_identity(path: Path) -> dict[str, Any] | None:
    try:
        attributes = dict(zarr.open_group(path, mode="r", zarr_format=3).attrs)
    except (FileNotFoundError, ValueError, KeyError):
        return None
    attributes.pop("complete", None)
    return attributes


def write_block(path: Path, block: Block, features: Mapping[str, NDArray[Any]]) -> None:
    """Writes the block's new rows of every layer; features: {layer: (len(block.new), C_in, L)}.

    The rows that the block already holds are kept. Each shard is replaced whole, by this task alone: concurrent
    partial writes of one shard lose data (zarr-python #3682).
    """
    group = zarr.open_group(path, mode="r+", zarr_format=3)
    rows = slice(block.start, block.start + len(block.keys))
    for name, values in features.items():
        array = _array(group, name)
        shard = _read(array, rows).copy()
        shard[list(block.new)] = values
        array[rows] = shard


class FeatureCache:
    """A finished cache, for reading."""

    def __init__(self, path: Path, group: zarr.Group, index: pd.DataFrame) -> None:
        self.path = path
        self._group = group
        self.index = index
        """One row a window, in manifest order; columns as in INDEX_COLUMNS."""

    @classmethod
    def open(cls, path: Path | str) -> FeatureCache:
        """The cache at `path`; raises FeatureCacheError when there is none or when it was not finished."""
        path = Path(path)
        try:
            group = zarr.open_group(path, mode="r", zarr_format=3)
        except FileNotFoundError:
            raise FeatureCacheError(f"{path}: no feature cache: run `bmnas features` first") from None
        if group.attrs.get("schema") != "bmnas.features" or group.attrs.get("schema_version") != SCHEMA_VERSION:
            raise FeatureCacheError(f"{path}: not a feature cache of schema version {SCHEMA_VERSION}")
        if group.attrs.get("complete") is not True:
            raise FeatureCacheError(f"{path}: the features stage did not finish: run `bmnas features` again")
        columns = {name: _read(_array(group, f"index/{name}")) for name in INDEX_COLUMNS}
        return cls(path, group, pd.DataFrame(columns))

    @property
    def attributes(self) -> dict[str, Any]:
        """Backbones, weights' digests, transforms, window parameters, versions."""
        return dict(self._group.attrs)

    @property
    def layers(self) -> dict[str, int]:
        """{layer: C_in}, visual layers first, each from shallow to deep."""
        return {name: int(_array(self._group, name).shape[1]) for name in self.attributes["layers"]}

    def load(self, split: str | None = None, layers: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
        """{layer: (N, C_in, L)} in the order of `index`, of one split or all; raises FeatureCacheError if unknown."""
        chosen = list(self.layers) if layers is None else list(layers)
        for name in chosen:
            if name not in self.layers:
                raise FeatureCacheError(f"{self.path}: no layer {name!r}; it has {', '.join(self.layers)}")
        if split not in (None, "train", "val", "test"):
            raise FeatureCacheError(f"split {split!r} is not one of train, val, test")
        index = self.index if split is None else self.index[self.index["split"] == split]
        rows = index["row"].to_numpy()
        return {name: torch.from_numpy(_read(_array(self._group, name))[rows]) for name in chosen}
