"""Format 3 of the feature cache, read by nothing but docs/cache.md, json, numpy and a CRC-32C written out.

Frozen: it does not follow the package. When the format changes, a new one is put beside it, and the caches that lie
about are still read by this one.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def checked(path: Path) -> bytes:
    """A file without the checksum at its end."""
    data = path.read_bytes()
    assert crc32c(data[:-4]) == int.from_bytes(data[-4:], "little"), path
    return data[:-4]


def read(cache: Path) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
    """(labels (N,), {layer: (V, N, C_in, L)}), every chunk checked."""
    root = json.loads((cache / "zarr.json").read_text())["attributes"]
    assert (root["schema_name"], root["schema_version"]) == ("bmnas.features", 3)
    index = cache / "index" / root["index"]
    attributes = json.loads((index / "zarr.json").read_text())["attributes"]
    layers = {}
    for variant in attributes["variants"]:
        folder = group_of(cache, variant)
        rows = column(index / "row" / folder.relative_to(cache), "<i8").reshape(-1, attributes["views"])
        for layer in variant["layers"]:
            layers[layer] = layer_rows(folder, variant, layer, rows).swapaxes(0, 1)
    return column(index / "label", "<i8"), layers


def group_of(cache: Path, variant: dict[str, Any]) -> Path:
    """The variant's group: the one of its name whose attributes are the variant's."""
    for file in (cache / variant["modality"]).glob(f"{variant['name']}-*/zarr.json"):
        if json.loads(file.read_text())["attributes"] == variant:
            return file.parent
    raise FileNotFoundError(variant["name"])


def column(folder: Path, dtype: str) -> NDArray[np.int64]:
    """A column of the index: one chunk, compressed with Zstandard, then checked."""
    from numcodecs import Zstd  # the one thing that numpy cannot do

    (file,) = folder.glob("c.*")
    return np.frombuffer(Zstd().decode(checked(file)), dtype).astype(np.int64)


def layer_rows(folder: Path, variant: dict[str, Any], layer: str, rows: NDArray[np.int64]) -> NDArray[Any]:
    """(N, V, C_in, L): rows lie one after another in each shard; its chunks' checksums are a column of a table."""
    shape, size = (variant["layers"][layer], variant["length"]), variant["shard_rows"]
    number = list(variant["layers"]).index(layer)
    found = np.empty((*rows.shape, *shape), variant["dtype"])
    for shard in np.unique(rows // size):
        table = np.frombuffer(checked(folder / "checksum" / f"c.{shard}.0"), "<u4").reshape(-1, len(variant["layers"]))
        data = (folder / layer.split("/")[1] / f"c.{shard}.0.0").read_bytes()[: -16 * len(table) - 4]
        chunk_bytes = variant["chunk_rows"] * found[0, 0].nbytes
        for chunk in range(len(data) // chunk_bytes):
            part = data[chunk * chunk_bytes : (chunk + 1) * chunk_bytes]
            assert crc32c(part) == table[chunk, number], (layer, shard, chunk)
        inside = rows // size == shard
        values = np.frombuffer(data, found.dtype.newbyteorder("<")).reshape(-1, *shape)
        found[inside] = values[rows[inside] % size]
    return found
