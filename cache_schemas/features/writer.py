"""Growing a feature cache: workers leave pieces in the staging folder, one process at a time packs them into shards.

Whatever is killed, and whoever else writes: a piece is there whole or not; rows count from the moment their shard's
keys are there, and that comes after all its layers; who packs holds the lock, and packs only keys that are missing.
Files are looked up by name: a listing may be old on a network's file system, and only saves work.
"""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import zarr
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from cache_schemas.features.layout import (
    GEOMETRY,
    INDEX_COLUMNS,
    KEY_BYTES,
    KEYS,
    Control,
    FeatureCacheError,
    Geometry,
    IndexAttributes,
    RootAttributes,
    VariantAttributes,
    create_index,
    group_document,
    index_name,
    variant_documents,
)
from cache_schemas.features.reader import FeatureCache
from cache_schemas.features.staging import Piece, read_piece, remove_empty, staged_piece, staging_folder
from cache_schemas.features.stored import StoredRows, open_root, written
from cache_schemas.files import replacing, sync

RowSource = Callable[[str, int, int], NDArray[Any]]
"""(layer, start, stop) -> (stop - start, L, C_in): some of the rows that are to be appended."""


class FeatureCacheWriter:
    """Grows one cache. Any number of writers, in any number of processes, may share it."""

    def __init__(self, path: Path, geometry: Geometry = GEOMETRY) -> None:
        """Opens the cache at `path`, or begins one; raises FeatureCacheError when something else is there.

        geometry: of backbones that are new to the cache.
        """
        self.path, self.geometry = path, geometry
        self._file_lock = FileLock(path.with_name(f"{path.name}.lock"))
        self._pieces: dict[Path, Piece] = {}
        root = path / "zarr.json"
        with written(path), self.lock():
            # Empty: the machine lost its power. All but the name of the index is still there, and that is found anew.
            if not root.exists() or (not root.stat().st_size and not [*path.glob("*/*/checksum")]):
                set_index(path, RootAttributes())
        open_root(str(path))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """What `append` needs. Its file goes with it."""
        with self._file_lock:
            yield
            if self._file_lock.lock_counter == 1:
                Path(self._file_lock.lock_file).unlink(missing_ok=True)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A run: what it has staged and packed is no garbage, though no index names it yet."""
        folder = staging_folder(self.path)
        lease = FileLock(folder / f"{uuid4().hex}.run")
        with written(folder), self.lock():
            folder.mkdir(parents=True, exist_ok=True)
            lease.acquire()
        try:
            yield
        finally:
            with self.lock():
                Path(lease.lock_file).unlink(missing_ok=True)
                lease.release()
                if not self.runs_at_work():
                    remove_empty(folder)

    def runs_at_work(self) -> bool:
        """Whether another run holds the cache; who asks holds the lock, so that none begins meanwhile."""
        for file in staging_folder(self.path).glob("*.run"):
            try:
                with FileLock(file, timeout=0):
                    file.unlink()  # of a run that was killed
            except Timeout:
                return True
        return False

    def add_variant(self, variant: VariantAttributes) -> None:
        """Begins the variant's group unless it is there, and writes anew whatever zarr.json cannot be read."""
        folder = self.path / variant.path
        with written(folder), self.lock():
            _write_group(folder.parent, {})
            with nullcontext(folder) if folder.exists() else _new_folder(folder) as at:
                self._write_documents(at, variant)

    def _write_documents(self, folder: Path, variant: VariantAttributes) -> None:
        held: dict[str, zarr.Array[Any]] = {}
        for layer in (*variant.layers, KEYS):
            with suppress(Exception):  # zarr raises errors of many kinds
                held[layer] = zarr.open_array(folder / Path(variant.array(layer)).name, mode="r", zarr_format=3)
        shard_rows = next(((array.shards or array.chunks)[0] for array in held.values()), self.geometry.shard_rows)
        chunk_rows = next((array.chunks[0] for array in held.values() if array.shards), self.geometry.chunk_rows)
        shards = [int(file.name.split(".")[1]) + 1 for file in folder.glob("*/c.*.0")]
        rows = max([shard_rows * max([0, *shards]), *(array.shape[0] for array in held.values())])
        for layer, content in variant_documents(variant, Geometry(shard_rows, chunk_rows)).items():
            if layer not in held:
                _write_json(folder / Path(variant.array(layer)).name / "zarr.json", _with_rows(content, rows))
        _write_group(folder, variant.model_dump())

    def stored(self, variant: VariantAttributes) -> StoredRows:
        """The variant's rows as they are now."""
        return StoredRows(str(self.path), variant)

    def missing(self, variant: VariantAttributes, keys: Sequence[str]) -> list[str]:
        """The keys, each once and in order, that are neither in a shard nor staged."""
        present = self.stored(variant).keys().keys() | self._staged(variant).keys()
        return [key for key in dict.fromkeys(keys) if key not in present]

    def staged(self, variant: VariantAttributes, keys: Sequence[str]) -> None:
        """Tells of a piece that a worker has staged, lest its file be in no listing yet."""
        self._look_at(staged_piece(self.path, variant, keys), variant)

    def _look_at(self, file: Path, variant: VariantAttributes) -> None:
        if file not in self._pieces and (piece := read_piece(file, variant)):
            self._pieces[file] = piece

    def _staged(self, variant: VariantAttributes) -> dict[str, tuple[Piece, int]]:
        """{key: where its rows wait}."""
        folder = staging_folder(self.path) / variant.path
        for file in folder.glob("*.npz"):
            self._look_at(file, variant)
        found: dict[str, tuple[Piece, int]] = {}
        for file in [file for file in self._pieces if file.parent == folder]:
            if file.exists():
                found |= {key: (self._pieces[file], i) for i, key in enumerate(self._pieces[file].keys)}
            else:  # another run has packed it
                del self._pieces[file]
        return found

    def pack(self, variant: VariantAttributes, keys: Sequence[str], *, final: bool) -> None:
        """Moves staged rows of the keys, in their order, into shards: full ones only, unless `final`."""
        with self.lock():
            stored = self.stored(variant)
            present, staged = stored.keys(), self._staged(variant)
            todo = [key for key in dict.fromkeys(keys) if key not in present]
            if final:
                todo = [key for key in todo if key in staged]
            else:
                # In order, so that the rows lie the same whatever was finished first.
                ready = next((i for i, key in enumerate(todo) if key not in staged), len(todo))
                todo = todo[: ready - ready % stored.shard_rows]
            if todo:
                versions = [staged[key][0].versions for key in todo]
                self.append(variant, todo, _staged_rows([staged[key] for key in todo]), versions)
                present |= dict.fromkeys(todo, 0)
            for piece in self._pieces.values():
                if present.keys() >= set(piece.keys):
                    piece.file.unlink(missing_ok=True)

    def append(
        self,
        variant: VariantAttributes,
        keys: Sequence[str],
        rows: RowSource,
        versions: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        """Writes new shards that hold the keys' rows in order; where a key lies already, the new row counts.

        versions: of the libraries that computed each row. Who calls holds the lock.
        """
        stored = self.stored(variant)
        size = stored.shard_rows
        # Never a number that was in use: a reader with an older index must not meet other rows.
        first = len(stored.numbers) * size
        if keys:
            self._make_room(variant, first, first + len(keys), versions or [])
        for start in range(0, len(keys), size):
            part = keys[start : start + size]
            for layer in variant.layers:
                block = np.ascontiguousarray(rows(layer, start, start + len(part)))
                self._write_shard(stored, layer, first + start, block)
            named = np.frombuffer(bytes.fromhex("".join(part)), np.uint8).reshape(-1, KEY_BYTES)
            self._write_shard(stored, KEYS, first + start, named)  # last: from here on the rows count

    def _make_room(
        self, variant: VariantAttributes, first: int, rows: int, versions: Sequence[Mapping[str, str]]
    ) -> None:
        """Gives the arrays the lengths that the rows from `first` to `rows` need, and notes what computed these."""
        for layer in (*variant.layers, KEYS):
            file = self.path / variant.array(layer) / "zarr.json"
            found = json.loads(file.read_text())
            if layer == KEYS:
                recorded = found["attributes"].setdefault("versions", [])
                for start, group in itertools.groupby(range(len(versions)), key=lambda i: dict(versions[i])):
                    if not recorded or recorded[-1][1] != start:
                        recorded.append([first + next(group), start])
            with written(file):
                _write_json(file, _with_rows(found, rows))

    def _write_shard(self, stored: StoredRows, layer: str, first: int, values: NDArray[Any]) -> None:
        file = Path(stored.file(layer, first // stored.shard_rows))
        with written(file):
            array = zarr.open_array(file.parent, mode="r+", zarr_format=3)
            array[first : first + len(values)] = values
            sync(file)
            sync(file.parent)

    def finish(
        self,
        index: pd.DataFrame,
        rows: Mapping[VariantAttributes, Sequence[str]],
        attributes: IndexAttributes,
        *,
        control: Control | str = "",
    ) -> None:
        """Writes the index, one row a window in manifest order, and makes it the one that counts.

        rows: the keys of every variant, the views and then the pseudo-fakes of one window after the other:
        (N * (V + P),). control: a second index of the same windows, or why there is none; "" leaves what the index has,
        and an index that is new has none. A reader sees the old index with its control or the new one; old ones stay
        until `gc`.
        """
        with self.lock():
            dtypes = {name: object if kind == "string" else kind for name, kind in INDEX_COLUMNS.items()}
            columns = {name: index[name].to_numpy(dtype=dtype) for name, dtype in dtypes.items()}
            name = self._write_index(columns, rows, attributes)
            found = open_root(str(self.path))[1]
            if isinstance(control, Control):
                found = RootAttributes(control=self._write_index(columns, control.rows, control.attributes))
            elif control or found.index != name:
                found = RootAttributes(no_control=control)
            set_index(self.path, found.model_copy(update={"index": name}))

    def _write_index(
        self,
        columns: Mapping[str, NDArray[Any]],
        rows: Mapping[VariantAttributes, Sequence[str]],
        attributes: IndexAttributes,
    ) -> str:
        """The name of an index that is there now. Who calls holds the lock."""
        numbers: dict[str, NDArray[np.int64]] = {}
        for variant, keys in rows.items():
            present = self.stored(variant).keys()
            if lost := [key for key in keys if key not in present]:
                raise FeatureCacheError(
                    f"{self.path}: {len(lost)} rows of {variant.path} are not there, though they were computed: "
                    f"do all workers see {staging_folder(self.path)}? If not, name a store that they see (--store). "
                    "Run the command again"
                )
            width = attributes.views + attributes.pseudo
            numbers[variant.path] = np.array([present[key] for key in keys], np.int64).reshape(-1, width)
        name = index_name(attributes, columns, numbers)
        folder = self.path / "index" / name
        with written(folder):
            _write_group(folder.parent, {})
            if not index_is_whole(self.path, name):
                remove_folder(folder)
                with _new_folder(folder) as new:
                    create_index(new, attributes, columns, numbers)
        return name


def index_is_whole(path: Path | str, name: str) -> bool:
    """Whether an index can be read and is what its name says."""
    try:
        cache = FeatureCache.open(path, name)
        columns = {column: cache.column(column) for column in INDEX_COLUMNS}
        return index_name(cache.index_attributes, columns, {v.path: cache.rows(v) for v in cache.variants}) == name
    except FeatureCacheError:
        return False


def set_index(path: Path, root: RootAttributes) -> None:
    """Makes an index the one that counts, with its control if it has one."""
    said = {name: value for name, value in root.model_dump().items() if value or name == "index"}
    with written(path):
        _write_json(path / "zarr.json", group_document(said))


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yields where to write it; at the end it is there at once."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent) as temporary:
        yield Path(temporary) / folder.name
        (Path(temporary) / folder.name).replace(folder)


def remove_folder(folder: Path) -> None:
    """Removes it at once, as other processes see it: killed halfway, it leaves what `gc` takes for a leftover."""
    with suppress(FileNotFoundError):
        gone = folder.with_name(f".{folder.name}.{uuid4().hex}.tmp")
        folder.replace(gone)
        shutil.rmtree(gone)


def _staged_rows(staged: Sequence[tuple[Piece, int]]) -> RowSource:
    def rows(layer: str, start: int, stop: int) -> NDArray[Any]:
        parts = []
        for _, group in itertools.groupby(staged[start:stop], key=lambda place: place[0].file):
            places = list(group)
            parts.append(places[0][0].rows(layer)[[i for _, i in places]])
        return np.concatenate(parts)

    return rows


def _with_rows(document: Mapping[str, Any], rows: int) -> dict[str, Any]:
    return {**document, "shape": [rows, *document["shape"][1:]]}


def _write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Writes the group's zarr.json, unless one is there that can be read."""
    with suppress(Exception):  # zarr raises errors of many kinds
        zarr.open_group(folder, mode="r", zarr_format=3)
        return
    _write_json(folder / "zarr.json", group_document(attributes))


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Replaces the file, which DVC may have linked, by a new one."""
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False), encoding="utf-8")
