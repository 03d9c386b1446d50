"""What a feature cache looks like on disk, declared once. Any Zarr v3 reader can read it, and checks what it reads.

    features.zarr/
      zarr.json                            RootAttributes: which index counts, and which is its control
      visual/<variant>/                    VariantAttributes: the backbone, and all that makes its features
        <layer>                            (rows, L, C_in): as the networks read them
        key                                (rows, 16) uint8: what a row holds; a shard counts once its keys are there
      audio/<variant>/...
      index/<digest>/                      IndexAttributes: the layers and parameters of the run that wrote it
        <column>                           (N,), text (N, bytes) uint8: the windows in manifest order
        row/<modality>/<variant>           (N, V + P): where view v of a window lies in the variant's arrays, then
                                           its P pseudo-fakes; where one is nothing else than view 0, view 0's row
    features.zarr.staging/, features.zarr.lock      a run at work: finished pieces, and who may commit them

Physical order is history, logical order is the manifest's. A shard is written once and never again; a run that
adds rows begins a new one. Only `zarr.json` files are replaced, each as a whole.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from cache_schemas.files import digest

SCHEMA_VERSION = 4
FORMATS = (2, 3)
"""Earlier ones, which `bmnas cache migrate` rewrites."""
KEY_BYTES = 16
KEYS = "key"
REMEDY = "Restore the file (`dvc checkout`), or run `bmnas cache verify --drop` and then `bmnas features` again"

INDEX_COLUMNS: Mapping[str, str] = {
    "clip_id": "string",  # the digest of the file's content
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
    "split_kind": "string",
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


Model = TypeVar("Model", bound=BaseModel)


class RootAttributes(BaseModel, extra="forbid", frozen=True):
    """Of the whole cache. `index` names the group that counts; empty while no run has finished."""

    schema_name: Literal["bmnas.features"] = "bmnas.features"
    schema_version: int = SCHEMA_VERSION
    index: str = ""
    control: str = ""
    """The index of the same windows by the same backbones with random weights; empty: there is none."""
    no_control: str = ""
    """Why there is none, where a run has tried."""


class VariantAttributes(BaseModel, extra="forbid", frozen=True):
    """One backbone's rows: everything that their values depend on, besides the windows themselves (the keys)."""

    modality: Literal["visual", "audio"]
    name: str
    backbone: dict[str, Any]
    """Name, weights' sha256, transform, pooling: Backbone.identity()."""
    layers: dict[str, int]
    """{"<modality>/<layer>": C_in}, shallow to deep."""
    length: int
    dtype: Literal["float16", "float32"]

    def __hash__(self) -> int:
        return hash(self.path)

    @functools.cached_property
    def path(self) -> str:
        """The group's path in the cache: equal attributes, equal path."""
        # Format 3 named the shards' geometry, too. All its caches had this one: their rows keep their names.
        return f"{self.modality}/{self.name}-{digest(self.model_dump() | {'shard_rows': 4096, 'chunk_rows': 128})[:8]}"

    def array(self, layer: str) -> str:
        """The path of a layer's array in the cache, or that of KEYS."""
        return f"{self.path}/{layer.rpartition('/')[2]}"


class IndexAttributes(BaseModel, extra="forbid", frozen=True):
    """Of one index: what the run that wrote it was asked for."""

    views: int
    variants: list[VariantAttributes]
    layers: list[str] = []
    """Those of the variants' that readers see; none: all."""
    params: dict[str, Any]
    """The sections of params.yaml that decide what a window's features are."""
    versions: dict[str, str]
    """Of the stages' code and of the libraries, for the record."""

    @property
    def pseudo(self) -> int:
        """P, the pseudo-fakes of every window of a real clip."""
        return int(self.params.get("features", {}).get("pseudo", 0))


@dataclass(frozen=True)
class Control:
    """What a second index is made of, that of random weights: the same windows in the same order."""

    rows: Mapping[VariantAttributes, Sequence[str]]
    """The keys of every variant, view by view of one window after the other: (N * (V + P),)"""
    attributes: IndexAttributes


@dataclass(frozen=True)
class Geometry:
    """How rows lie in files; no part of any name."""

    shard_rows: int = 4096
    """A million windows are 245 files a layer."""
    chunk_rows: int = 256
    """What one checksum covers, and what the end of every run is filled up to; `make bench-cache` measures it."""


GEOMETRY = Geometry()


_FLAT: Any = {"name": "default", "separator": "."}
"""Of a shard's file: c.NUMBER.0.0 in its array's folder, so that a million windows are few folders, too."""


@functools.lru_cache(maxsize=64)
def variant_documents(variant: VariantAttributes, geometry: Geometry) -> Mapping[str, Mapping[str, Any]]:
    """{layer, KEYS last: what its array's zarr.json says} of a variant without rows."""
    group, length = zarr.create_group(MemoryStore(), zarr_format=3), variant.length
    arrays = {}
    for layer, channels in variant.layers.items():
        arrays[layer] = group.create_array(
            layer.partition("/")[2],
            shape=(0, length, channels),
            chunks=(geometry.chunk_rows, length, channels),
            shards=(geometry.shard_rows, length, channels),
            dtype=variant.dtype,
            compressors=[Crc32cCodec()],  # compression would save a tenth of half-precision features
            fill_value=float("nan"),  # so that a missing shard is not taken for zeros
            chunk_key_encoding=_FLAT,
            dimension_names=("row", "position", "channel"),
        )
    arrays[KEYS] = group.create_array(
        KEYS,
        shape=(0, KEY_BYTES),
        chunks=(geometry.shard_rows, KEY_BYTES),
        dtype="uint8",
        compressors=[Crc32cCodec()],
        fill_value=0,
        chunk_key_encoding=_FLAT,
        dimension_names=("row", "byte"),
    )
    return {layer: document(array) for layer, array in arrays.items()}


def document(array: zarr.Array[Any]) -> dict[str, Any]:
    """What an array's zarr.json says, as Zarr understands it."""
    text = array.metadata.to_buffer_dict(default_buffer_prototype())["zarr.json"].to_bytes()
    found: dict[str, Any] = json.loads(text)
    return found


def group_document(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What a group's zarr.json says."""
    return {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}


def create_index(
    store: Any, attributes: IndexAttributes, columns: Mapping[str, NDArray[Any]], rows: Mapping[str, NDArray[np.int64]]
) -> None:
    """Writes an index into a store: columns {name: (N,)}, rows {variant path: (N, V + P)}."""
    group = zarr.create_group(store, zarr_format=3, attributes=attributes.model_dump(exclude_unset=True))
    stored = {
        name: text_bytes(columns[name]) if kind == "string" else columns[name] for name, kind in INDEX_COLUMNS.items()
    }
    for name, values in (stored | {f"row/{path}": numbers for path, numbers in rows.items()}).items():
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=tuple(max(1, size) for size in values.shape),
            dtype=values.dtype,
            compressors=[ZstdCodec(), Crc32cCodec()],
            chunk_key_encoding=_FLAT,
            config={"write_empty_chunks": True},  # so that a missing file is not taken for zeros
        )
        array[...] = values


def text_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """(N, bytes) UTF-8, filled up with zeros: every Zarr reader knows numbers, few know text."""
    encoded = np.array([text.encode() for text in values], "S")
    return encoded.view(np.uint8).reshape(len(encoded), encoded.itemsize)


def bytes_text(stored: NDArray[np.uint8]) -> NDArray[Any]:
    """(N,) the text again."""
    return np.array([row.decode() for row in stored.view(f"S{stored.shape[1]}").ravel().tolist()], object)


def keys_text(stored: NDArray[np.uint8]) -> list[str]:
    """The keys (rows, 16) as hex digits, "" where a row is free."""
    text, size = stored.tobytes().hex(), 2 * KEY_BYTES
    keys = [text[i : i + size] for i in range(0, len(text), size)]
    return ["" if key == "0" * size else key for key in keys]


def attributes_digest(attributes: IndexAttributes) -> str:
    """What the name of an index begins with, so that damage to its attributes shows. Versions are in no name."""
    return digest(attributes.model_dump(exclude_unset=True, exclude={"versions"}), digits=8)


def index_name(attributes: IndexAttributes, columns: Mapping[str, Any], rows: Mapping[str, Any]) -> str:
    """The name of an index by its content."""
    sha = hashlib.sha256()
    for name, values in {**columns, **rows}.items():
        data = "\0".join(values).encode() if values.dtype == object else values.tobytes()
        sha.update(f"\0{name} {values.shape}\0".encode() + data)
    return attributes_digest(attributes) + sha.hexdigest()[:16]


def parse(model: type[Model], where: str, attributes: Any) -> Model:
    """The attributes of a group; raises FeatureCacheError when they are not what the schema says."""
    try:
        return model.model_validate(attributes)
    except ValidationError as error:
        raise FeatureCacheError(f"{where}: not a group of a feature cache: {error}") from None
