"""What is stored, for reading: in a folder or below an fsspec URL, by plain zarr-python, each chunk checked by Zarr."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer.cpu import NDBuffer

from cache_schemas.features.layout import (
    FORMATS,
    KEYS,
    REMEDY,
    SCHEMA_VERSION,
    FeatureCacheError,
    Geometry,
    RootAttributes,
    VariantAttributes,
    document,
    keys_text,
    parse,
    variant_documents,
)

THREADS = 4
"""Shards that are read at once; each takes memory until its rows are where they belong."""


def open_root(url: str) -> tuple[zarr.Group, RootAttributes]:
    """The root group of the cache at a path or URL; raises FeatureCacheError when it is none of this schema."""
    with explained(url):
        try:
            group = zarr.open_group(_store(url), mode="r", zarr_format=3)
        except FileNotFoundError:
            raise FeatureCacheError(f"{url}: no feature cache: run `bmnas features` first") from None
        attributes = dict(group.attrs)
    version = attributes.get("schema_version")
    if version != SCHEMA_VERSION:
        remedy = "move it away, and run `bmnas features` again"
        if version in FORMATS:
            remedy = f"run `bmnas cache migrate {url}` (nothing is computed again)"
        raise FeatureCacheError(
            f"{url}: not a feature cache of schema version {SCHEMA_VERSION} (it says {version}): {remedy}"
        )
    return group, parse(RootAttributes, url, attributes)


def _store(url: str) -> Any:
    if "://" not in url:
        return Path(url)
    try:
        return zarr.storage.FsspecStore.from_url(url, read_only=True)
    except ImportError as error:
        extra = 'pip install "bmnas[s3]"' if url.startswith("s3:") else "install the package that it names"
        raise FeatureCacheError(f"{url}: {error}: {extra}") from None


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Says what could not be read: Zarr and every file system raise errors of their own for damage and lost servers."""
    try:
        yield
    except FeatureCacheError:
        raise
    except Exception as error:
        told = f"{url} cannot be read: {error or type(error).__name__}"
        if "://" not in url:
            raise FeatureCacheError(f"{told}. {REMEDY}") from error
        raise FeatureCacheError(
            f"{told}. {REMEDY}; or check the URL, the network, and the endpoint and credentials in the environment "
            "(for S3: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        ) from error


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Says which file could not be written, and why: a full disk's own error names none."""
    try:
        yield
    except OSError as error:
        raise FeatureCacheError(
            f"{path} cannot be written: {error}. What was finished is kept: make room or correct the permissions, "
            "and run the command again"
        ) from error


@contextmanager
def noted(problems: list[str] | None) -> Iterator[None]:
    """Adds what cannot be read to the problems and goes on, where there is a list of them."""
    try:
        yield
    except FeatureCacheError as error:
        if problems is None:
            raise
        problems.append(str(error))


def size_of(url: str) -> int:
    """Bytes of all files below a path or URL."""
    files, path = fsspec.core.url_to_fs(url)
    return int(files.du(path)) if files.exists(path) else 0


def stored_variants(url: str, unreadable: list[str] | None = None) -> list[VariantAttributes]:
    """Every variant that lies in the cache, those that no index covers included.

    unreadable: is told what is wrong with a damaged one, for which FeatureCacheError is raised otherwise.
    """
    group, _ = open_root(url)
    found = []
    for modality in ("visual", "audio"):
        for name in members(url, modality):
            where = f"{url}/{modality}/{name}/zarr.json"
            with noted(unreadable), explained(where):
                variant = parse(VariantAttributes, where, dict(group[f"{modality}/{name}"].attrs))
                if variant.path != f"{modality}/{name}":
                    raise FeatureCacheError(f"{where}: its attributes belong to {variant.path}. {REMEDY}")
                found.append(variant)
    return found


def stored_rows(url: str, unreadable: list[str] | None = None) -> list[StoredRows]:
    """The rows of every variant that lies in the cache; as `stored_variants`."""
    found = []
    for variant in stored_variants(url, unreadable):
        with noted(unreadable):
            found.append(StoredRows(url, variant))
    return found


def members(url: str, group: str) -> list[str]:
    """The names of the folders in a group of the cache, temporary ones left out."""
    files, root = fsspec.core.url_to_fs(f"{url}/{group}")
    listed = files.ls(root, detail=False) if files.exists(root) else []
    names = sorted(path.rstrip("/").rpartition("/")[2] for path in listed)
    return [name for name in names if name[0] != "." and name != "zarr.json"]


class StoredRows:
    """The rows of one backbone, as they are stored. Several threads may use it at once."""

    def __init__(self, url: str, variant: VariantAttributes, group: zarr.Group | None = None) -> None:
        """Raises FeatureCacheError when the arrays' metadata are missing or not those of the variant."""
        self.url, self.variant = url, variant
        root = group or open_root(url)[0]
        self.arrays: dict[str, zarr.Array[Any]] = {}
        """{layer, or KEYS}"""
        for layer in (KEYS, *variant.layers):
            where = f"{url}/{variant.array(layer)}/zarr.json"
            with explained(where):
                array = root.get(variant.array(layer))
                if not isinstance(array, zarr.Array):
                    raise FeatureCacheError(f"{where} is missing. {REMEDY}")
                self.arrays[layer] = array
                wanted = variant_documents(variant, Geometry(self.shard_rows, array.chunks[0]))[layer]
                found = document(array)
            if found | {"shape": [0, *found["shape"][1:]], "attributes": {}} != wanted:
                raise FeatureCacheError(f"{where} says {found}, which is not what was written. {REMEDY}")

    @property
    def shard_rows(self) -> int:
        """Rows of a whole shard."""
        return self.arrays[KEYS].chunks[0]

    def __len__(self) -> int:
        """The rows that there are, once were, or were about to come when a run was killed."""
        return max(array.shape[0] for array in self.arrays.values())

    def file(self, layer: str, shard: int) -> str:
        """The path or URL of a shard; layer: one of the variant's, or KEYS."""
        return f"{self.url}/{self.variant.array(layer)}/c.{shard}.0" + (".0" if layer != KEYS else "")

    @property
    def numbers(self) -> range:
        """Those that shards have or once had."""
        return range(-(-len(self) // self.shard_rows))

    def shard_keys(self, shard: int) -> list[str]:
        """The keys of a shard's rows, "" where a row is free; raises FeatureCacheError when the file is damaged."""
        with explained(self.file(KEYS, shard)):
            stored: Any = self.arrays[KEYS][shard * self.shard_rows : (shard + 1) * self.shard_rows]
        return keys_text(stored)

    def names(self) -> dict[int, str]:
        """{row: its key} of every row that counts."""
        keys = itertools.chain.from_iterable(map(self.shard_keys, self.numbers))
        return {row: key for row, key in enumerate(keys) if key}

    def keys(self) -> dict[str, int]:
        """{key: row} of every row that counts; after a `gc` that was killed a key may be in two shards: the later."""
        return {key: row for row, key in self.names().items()}

    def versions(self, rows: Sequence[int] | NDArray[np.int64]) -> list[dict[str, str]]:
        """Which versions of libraries computed each row; {} where that is not known."""
        recorded: Any = self.arrays[KEYS].attrs.get("versions", [])
        starts = [start for start, _ in recorded]
        return [dict(recorded[i - 1][1]) if i else {} for i in np.searchsorted(starts, rows, side="right")]


def read_rows(stored: Mapping[str, StoredRows], rows: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
    """{layer: (n, L, C_in)} of rows {layer: (n,)}; raises FeatureCacheError for a damaged or missing shard.

    stored: {layer: where it lies}.
    """
    found, jobs = {}, []
    with ThreadPoolExecutor(THREADS) as pool:
        for layer, numbers in rows.items():
            array = stored[layer].arrays[layer]
            found[layer] = np.empty((len(numbers), *array.shape[1:]), array.dtype)
            shards = numbers // stored[layer].shard_rows
            order = np.argsort(shards, kind="stable")
            for places in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1):
                if len(places):
                    jobs.append(pool.submit(_read_shard, stored[layer], layer, numbers[places], places, found[layer]))
        for job in jobs:
            job.result()
    return found


def _read_shard(
    stored: StoredRows, layer: str, rows: NDArray[np.int64], places: NDArray[np.int64], out: NDArray[Any]
) -> None:
    """Some rows of one shard into their places in `out`; straight from the file where both follow one another."""
    array, first, count = stored.arrays[layer], int(rows.min()), len(rows)
    file = stored.file(layer, first // stored.shard_rows)
    with explained(file):
        if all((np.diff(numbers) == 1).all() for numbers in (rows, places)):
            target = out[places[0] : places[0] + count]
            array.get_basic_selection(slice(first, first + count), out=NDBuffer.from_numpy_array(target))
        else:
            block: Any = array[first : int(rows.max()) + 1]
            target = block[rows - first]
            out[places] = target
    if np.isnan(target[:, 0, 0]).any():  # the arrays' fill value; features are finite
        raise FeatureCacheError(f"{file} cannot be read: it is missing, or rows of it are. {REMEDY}")
