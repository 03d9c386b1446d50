"""What a feature cache looks like on disk, declared once. Any Zarr v3 reader can read it.

    features.zarr/
      zarr.json                            RootAttributes: which index counts
      visual/<variant>/                    VariantAttributes: the backbone, and all that makes its features
        <layer>                            (rows, C_in, L), sharded: raw rows, then the shard's own index
        checksum                           (chunks, layers) uint32: the CRC-32C of every chunk of every layer
        key                                (rows, 16) uint8: what a row holds; a shard counts once its keys are there
      audio/<variant>/...
      index/<digest>/                      IndexAttributes: the layers and parameters of the run that wrote it
        <column>                           (N,): the windows in manifest order
        row/<modality>/<variant>           (N, V): where view v of a window lies in the variant's arrays
    features.zarr.staging/, features.zarr.lock      a run at work: finished pieces, and who may commit them

Physical order is history, logical order is the manifest's. A shard is written once and never again; a run that
adds rows begins a new one. Only `zarr.json` files are replaced, each as a whole.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import zarr
from pydantic import BaseModel, ConfigDict, ValidationError
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec, ZstdCodec

from cache_schemas.files import digest

SCHEMA_VERSION = 3
SHARD_ROWS = 4096
"""A million windows are 245 shards a layer."""
CHUNK_ROWS = 128
"""What one checksum covers and one small read from S3 fetches; benchmarks/chunks.py measures what it costs."""
KEY_BYTES = 16
KEYS = "key"
CHECKSUMS = "checksum"
CHECKSUM_BYTES = 4

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


class _Attributes(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=_Attributes)


class RootAttributes(_Attributes):
    """Of the whole cache. `index` names the group that counts; empty while no run has finished."""

    schema_name: Literal["bmnas.features"] = "bmnas.features"
    schema_version: int = SCHEMA_VERSION
    index: str = ""


class VariantAttributes(_Attributes):
    """One backbone's rows: everything that their values depend on, besides the windows themselves (the keys)."""

    modality: Literal["visual", "audio"]
    name: str
    backbone: dict[str, Any]
    """Name, weights' sha256, transform, pooling, layers: Backbone.identity()."""
    layers: dict[str, int]
    """{"<modality>/<layer>": C_in}, shallow to deep."""
    length: int
    dtype: Literal["float16", "float32"]
    shard_rows: int = SHARD_ROWS
    chunk_rows: int = CHUNK_ROWS

    def __hash__(self) -> int:
        return hash(self.path)

    @functools.cached_property
    def path(self) -> str:
        """The group's path in the cache: equal attributes, equal path."""
        return f"{self.modality}/{self.name}-{digest(self.model_dump())[:8]}"

    def array(self, layer: str) -> str:
        """The path of a layer's array in the cache."""
        return f"{self.path}/{layer.partition('/')[2]}"

    @property
    def shard_chunks(self) -> int:
        """Chunks of a full shard."""
        return self.shard_rows // self.chunk_rows

    def geometry(self, layer: str) -> Geometry:
        """How the layer's rows lie in its shards."""
        return Geometry((self.layers[layer], self.length), self.dtype, self.shard_rows, self.chunk_rows)


class IndexAttributes(_Attributes):
    """Of one index: what the run that wrote it was asked for."""

    views: int
    variants: list[VariantAttributes]
    params: dict[str, Any]
    """The sections of params.yaml that decide what a window's features are."""
    versions: dict[str, str]
    """Of the stages' code and of the libraries, for the record."""


@dataclass(frozen=True)
class Geometry:
    """How the rows of one layer lie in its shards: one after another, in chunks of `chunk_rows` rows."""

    row_shape: tuple[int, int]
    """(C_in, L)"""
    dtype: str
    shard_rows: int
    chunk_rows: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.row_shape[0] * self.row_shape[1] * int(self.dtype.removeprefix("float")) // 8

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk."""
        return self.chunk_rows * self.row_bytes

    @property
    def shard_bytes(self) -> int:
        """Bytes of a full shard's rows, without the shard's own index."""
        return self.shard_rows * self.row_bytes

    @property
    def shard_chunks(self) -> int:
        """Chunks of a full shard."""
        return self.shard_rows // self.chunk_rows

    @property
    def index_bytes(self) -> int:
        """Bytes of the shard's own index at its end: (offset, length) of every chunk, and a checksum."""
        return 16 * self.shard_chunks + CHECKSUM_BYTES


def shard_name(number: int) -> str:
    """The file of a layer's shard, below the array's folder: flat, so that a million windows are few folders too."""
    return f"c.{number}.0.0"


def table_name(number: int) -> str:
    """The file of a shard's keys, and that of its checksums."""
    return f"c.{number}.0"


_FLAT: Any = {"name": "default", "separator": "."}


def create_root(folder: Path) -> None:
    """Begins an empty cache in `folder`."""
    zarr.create_group(folder, zarr_format=3, attributes=RootAttributes().model_dump())


def create_variant(folder: Path | Store, variant: VariantAttributes) -> None:
    """Begins the group of a variant, without rows, in `folder`."""
    group = zarr.create_group(folder, zarr_format=3, attributes=variant.model_dump())
    for layer, channels in variant.layers.items():
        group.create_array(
            layer.partition("/")[2],
            shape=(0, channels, variant.length),
            chunks=(variant.chunk_rows, channels, variant.length),
            shards=(variant.shard_rows, channels, variant.length),
            dtype=variant.dtype,
            # Uncompressed: half-precision features shrink by a tenth, and could then not be mapped. Their checksums
            # stand apart, so that the rows of a shard are one array in memory as they are on disk.
            compressors=None,
            fill_value=0,
            chunk_key_encoding=_FLAT,
            dimension_names=("row", "channel", "position"),
        )
    tables = (
        (KEYS, (variant.shard_rows, KEY_BYTES), "uint8", ("row", "byte")),
        (CHECKSUMS, (variant.shard_chunks, len(variant.layers)), "uint32", ("chunk", "layer")),
    )
    for name, chunks, dtype, dimensions in tables:
        group.create_array(
            name,
            shape=(0, chunks[1]),
            chunks=chunks,
            dtype=dtype,
            compressors=[Crc32cCodec()],
            fill_value=0,
            chunk_key_encoding=_FLAT,
            dimension_names=dimensions,
        )


def create_index(
    folder: Path, attributes: IndexAttributes, columns: Mapping[str, Any], rows: Mapping[str, Any]
) -> None:
    """Writes an index into `folder`: columns {name: (N,)}, rows {variant path: (N, V) int64}."""
    group = zarr.create_group(folder, zarr_format=3, attributes=attributes.model_dump())
    named = [*((name, columns[name], dtype) for name, dtype in INDEX_COLUMNS.items())]
    named += [(f"row/{path}", values, "int64") for path, values in rows.items()]
    for name, values, dtype in named:
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=tuple(max(1, size) for size in values.shape),
            dtype=dtype,
            compressors=[ZstdCodec(), Crc32cCodec()],
            chunk_key_encoding=_FLAT,
            config={"write_empty_chunks": True},  # so that a missing file is not taken for zeros
        )
        array[...] = values


def attributes_digest(attributes: IndexAttributes) -> str:
    """What the name of an index begins with, so that damage to its attributes shows."""
    return digest(attributes.model_dump(), digits=8)


def parse(model: type[Model], where: str, attributes: Any) -> Model:
    """The attributes of a group; raises FeatureCacheError when they are not what the schema says."""
    try:
        return model.model_validate(attributes)
    except ValidationError as error:
        raise FeatureCacheError(f"{where}: not a group of a feature cache: {error}") from None
