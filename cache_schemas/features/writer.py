"""Growing a feature cache: workers leave pieces in the staging folder, one process at a time packs them into shards.

Whatever is killed, and whoever else writes: a piece is there whole or not; rows count from the moment their shard's
keys are there, and that comes after all its layers; who packs holds the lock, and packs only keys that are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import safetensors.numpy
import zarr
from filelock import FileLock
from numpy.typing import NDArray

from cache_schemas.features.layout import (
    CHECKSUMS,
    INDEX_COLUMNS,
    KEY_BYTES,
    KEYS,
    FeatureCacheError,
    IndexAttributes,
    RootAttributes,
    VariantAttributes,
    attributes_digest,
    create_index,
    create_root,
    create_variant,
    shard_name,
    table_name,
)
from cache_schemas.features.shard import checked, encode_shard, with_checksum
from cache_schemas.features.sources import explained, open_root
from cache_schemas.files import digest, replacing

RowSource = Callable[[str, int, int], NDArray[Any]]
"""(layer, start, stop) -> (stop - start, C_in, L): some of the rows that are to be appended."""


def stage_piece(cache: Path, variant: VariantAttributes, keys: Sequence[str], features: Mapping[str, Any]) -> None:
    """Leaves finished rows for the packer; features: {layer: (len(keys), C_in, L)}. Safe from any process."""
    dtype = np.dtype(variant.dtype)
    arrays = {}
    for layer, channels in variant.layers.items():
        values = np.ascontiguousarray(features[layer])
        if values.shape != (len(keys), channels, variant.length):
            raise FeatureCacheError(f"{layer}: is {values.shape}, must be {(len(keys), channels, variant.length)}")
        with np.errstate(over="ignore"):  # told below, with the layer's name
            arrays[layer] = values.astype(dtype)
        if not np.isfinite(arrays[layer]).all():
            raise FeatureCacheError(
                f"{layer}: a feature is not finite as {variant.dtype} (largest {np.abs(values).max():g}): "
                "use features.dtype float32, or other weights"
            )
    path = staged_piece(cache, variant, keys)
    with _explained(path), replacing(path) as temporary:
        # Not save_file: it makes a temporary file of its own, which stays behind when the process is killed.
        temporary.write_bytes(safetensors.numpy.save(arrays, {"keys": json.dumps(list(keys))}))


def staged_piece(cache: Path, variant: VariantAttributes, keys: Sequence[str]) -> Path:
    """The file in which these rows wait, once they are computed."""
    return staging_folder(cache) / variant.path / f"{digest(*keys)}.safetensors"


def staging_folder(cache: Path) -> Path:
    """Where finished pieces wait: beside the cache, so that nothing but the cache is in it."""
    return cache.with_name(f"{cache.name}.staging")


class FeatureCacheWriter:
    """Grows one cache. Any number of writers, in any number of processes, may share it."""

    def __init__(self, path: Path) -> None:
        """Opens the cache at `path`, or begins one; raises FeatureCacheError when something else is there."""
        self.path = path
        self._lock = FileLock(path.with_name(f"{path.name}.lock"))
        with _explained(path), self._lock:  # which makes its folder
            if not (path / "zarr.json").exists():
                with _new_folder(path) as folder:
                    create_root(folder)
        read_root(path)

    def add_variant(self, variant: VariantAttributes) -> None:
        """Begins the variant's group unless it is there."""
        folder = self.path / variant.path
        with _explained(folder), self._lock:
            if not (folder / "zarr.json").exists():
                modality = self.path / variant.modality
                if not (modality / "zarr.json").exists():
                    with _new_folder(modality) as group:
                        zarr.create_group(group, zarr_format=3)
                with _new_folder(folder) as group:
                    create_variant(group, variant)

    def missing(self, variant: VariantAttributes, keys: Sequence[str]) -> list[str]:
        """The keys, each once and in order, that are neither in a shard nor staged."""
        present = committed_keys(self.path, variant).keys() | self._staged(variant).keys()
        return [key for key in dict.fromkeys(keys) if key not in present]

    def pack(self, variant: VariantAttributes, keys: Sequence[str], *, final: bool) -> None:
        """Moves staged rows of the keys, in their order, into shards: full ones only, unless `final`."""
        with self._lock:
            present = committed_keys(self.path, variant)
            staged = self._staged(variant)
            todo = [key for key in dict.fromkeys(keys) if key not in present]
            # In order, so that the rows lie the same whatever was finished first.
            ready = next((i for i, key in enumerate(todo) if key not in staged), len(todo))
            if not final:
                ready -= ready % variant.shard_rows
            todo = todo[:ready]
            if todo:
                self.append(variant, todo, _staged_rows(staged, todo))
            present_now = committed_keys(self.path, variant) if todo else present
            for file in {file for file, _ in staged.values()}:
                if all(key in present_now for key in _keys_of(file)):
                    file.unlink(missing_ok=True)

    def _staged(self, variant: VariantAttributes) -> dict[str, tuple[Path, int]]:
        """{key: where its rows wait}."""
        folder = staging_folder(self.path) / variant.path
        return {key: (file, i) for file in sorted(folder.glob("*.safetensors")) for i, key in enumerate(_keys_of(file))}

    def append(self, variant: VariantAttributes, keys: Sequence[str], rows: RowSource) -> None:
        """Writes new shards that hold the keys' rows in order. Who calls holds the lock and knows they are missing."""
        group = zarr.open_group(self.path / variant.path, mode="r+", zarr_format=3)
        for first in range(0, len(keys), variant.shard_rows):
            part = keys[first : first + variant.shard_rows]
            # Never a number that was in use: a reader with an older index must not meet other rows.
            number = max(
                -(-_row_count(group) // variant.shard_rows), 1 + max(shard_numbers(self.path, variant), default=-1)
            )
            checksums = np.zeros((variant.shard_chunks, len(variant.layers)), "<u4")
            for column, layer in enumerate(variant.layers):
                pieces = (
                    rows(layer, first + i, min(first + i + variant.chunk_rows, first + len(part)))
                    for i in range(0, len(part), variant.chunk_rows)
                )
                encoded = encode_shard(pieces, variant.geometry(layer), checksums[:, column])
                _write(self.path / variant.array(layer) / shard_name(number), encoded)
            self._write_tables(variant, number, part, checksums)
        self._resize(variant)

    def _write_tables(
        self, variant: VariantAttributes, number: int, keys: Sequence[str], checksums: NDArray[np.uint32]
    ) -> None:
        """The keys come last: from here on the rows count."""
        table = bytes.fromhex("".join(keys)).ljust(variant.shard_rows * KEY_BYTES, b"\0")
        for name, content in ((CHECKSUMS, checksums.tobytes()), (KEYS, table)):
            _write(self.path / variant.path / name / table_name(number), iter([with_checksum(content)]))

    def _resize(self, variant: VariantAttributes) -> None:
        """Gives the arrays the shapes that their rows need, for other readers."""
        group = zarr.open_group(self.path / variant.path, mode="r+", zarr_format=3)
        rows = max(_row_count(group), 1 + max(committed_keys(self.path, variant).values(), default=-1))
        for name in (*(layer.partition("/")[2] for layer in variant.layers), CHECKSUMS, KEYS):
            array, count = group[name], -(-rows // variant.chunk_rows) if name == CHECKSUMS else rows
            assert isinstance(array, zarr.Array)  # noqa: S101 - create_variant made it
            if array.shape[0] != count:
                with _explained(self.path / variant.path / name):
                    array.resize((count, *array.shape[1:]))

    def finish(
        self, index: pd.DataFrame, rows: Mapping[VariantAttributes, Sequence[str]], attributes: IndexAttributes
    ) -> None:
        """Writes the index, one row a window in manifest order, and makes it the one that counts.

        rows: the keys of every variant, view by view of one window after the other: (N * V,). It is replaced as a
        whole: a reader sees the old index or the new one.
        """
        with self._lock:
            numbers = {}
            for variant, keys in rows.items():
                present = committed_keys(self.path, variant)
                found = np.array([present[key] for key in keys], np.int64)
                numbers[variant.path] = found.reshape(-1, attributes.views)
                self._resize(variant)  # a run may have been killed before it came to that
            self.write_index(index, numbers, attributes)

    def write_index(
        self, index: pd.DataFrame, rows: Mapping[str, NDArray[np.int64]], attributes: IndexAttributes
    ) -> None:
        """As `finish`, from row numbers {variant path: (N, V)}. Who calls holds the lock."""
        columns = {
            name: index[name].to_numpy(dtype=object if dtype == "string" else dtype)
            for name, dtype in INDEX_COLUMNS.items()
        }
        name = index_name(attributes, columns, rows)
        parent = self.path / "index"
        with _explained(parent):
            if not (parent / name / "zarr.json").exists():
                if not (parent / "zarr.json").exists():
                    with _new_folder(parent) as folder:
                        zarr.create_group(folder, zarr_format=3)
                with _new_folder(parent / name) as folder:
                    create_index(folder, attributes, columns, rows)
            set_index(self.path, name)
            for old in parent.iterdir():
                if old.is_dir() and old.name != name:
                    shutil.rmtree(old)

    def lock(self) -> FileLock:
        """The lock that `append` and `write_index` need."""
        return self._lock


def index_name(attributes: IndexAttributes, columns: Mapping[str, Any], rows: Mapping[str, Any]) -> str:
    sha = hashlib.sha256()
    for name, values in {**columns, **rows}.items():
        data = "\0".join(values).encode() if values.dtype == object else values.tobytes()
        sha.update(f"\0{name} {values.shape}\0".encode() + data)
    return attributes_digest(attributes) + sha.hexdigest()[:16]


def read_root(path: Path) -> RootAttributes:
    """The root's attributes; raises FeatureCacheError when `path` is no cache of this schema."""
    return open_root(str(path))[1]


def set_index(path: Path, name: str) -> None:
    """Makes an index the one that counts; "" for none."""
    zarr.open_group(path, mode="r+", zarr_format=3).attrs.put(RootAttributes(index=name).model_dump())


def shard_numbers(path: Path, variant: VariantAttributes) -> list[int]:
    """The shards whose rows count, in ascending order."""
    return sorted(int(file.name.split(".")[1]) for file in (path / variant.path / KEYS).glob("c.*.0"))


def shard_keys(path: Path, variant: VariantAttributes, number: int) -> list[str]:
    """The keys of a shard's rows, "" where a row is free; raises FeatureCacheError when the file is damaged."""
    file = path / variant.path / KEYS / table_name(number)
    where = f"{variant.path}/{KEYS} ({file})"
    with explained(where):
        content = file.read_bytes()
    text = checked(content, where).hex()
    keys = [text[i : i + 2 * KEY_BYTES] for i in range(0, len(text), 2 * KEY_BYTES)]
    return ["" if key == _FREE else key for key in keys]


_FREE = "00" * KEY_BYTES


def committed_keys(path: Path, variant: VariantAttributes) -> dict[str, int]:
    """{key: row} of every row that counts."""
    return {
        key: number * variant.shard_rows + i
        for number in shard_numbers(path, variant)
        for i, key in enumerate(shard_keys(path, variant, number))
        if key
    }


def _row_count(group: zarr.Group) -> int:
    """The rows that a variant has or once had."""
    keys = group[KEYS]
    assert isinstance(keys, zarr.Array)  # noqa: S101 - create_variant made it
    return int(keys.shape[0])


def _keys_of(file: Path) -> list[str]:
    """The keys of a staged piece; none when it is gone (another run has packed it)."""
    try:
        with safetensors.safe_open(file, framework="np") as piece:
            return list(json.loads(piece.metadata()["keys"]))
    except FileNotFoundError:
        return []


def _staged_rows(staged: Mapping[str, tuple[Path, int]], keys: Sequence[str]) -> RowSource:
    def rows(layer: str, start: int, stop: int) -> NDArray[Any]:
        wanted: dict[Path, dict[int, int]] = {}
        for position, key in enumerate(keys[start:stop]):
            file, i = staged[key]
            wanted.setdefault(file, {})[position] = i
        found: list[NDArray[Any] | None] = [None] * (stop - start)
        for file, places in wanted.items():
            with safetensors.safe_open(file, framework="np") as piece:
                values = piece.get_tensor(layer)
            for position, i in places.items():
                found[position] = values[i]
        return np.stack([row for row in found if row is not None])

    return rows


def _write(path: Path, parts: Iterator[bytes]) -> None:
    with _explained(path), replacing(path) as temporary, temporary.open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Says which file could not be written, and why: a full disk's own error names none."""
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        raise FeatureCacheError(
            f"{path} cannot be written: {error}. What was finished is kept: make room or correct the permissions, "
            "and run the command again"
        ) from error


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Yields a folder that becomes `path` when the block ends well: a group is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as folder:
        inner = Path(folder) / path.name
        yield inner
        if path.exists():  # left without its zarr.json: nothing in it counts
            shutil.rmtree(path)
        inner.replace(path)
