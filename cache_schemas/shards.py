"""HDF5 shards: what the spectrograms and faces stages write. A shard exists whole or not at all.

One shard holds a few clips: a table of clips (also those that failed, with the reason), a table of their
windows, and one array per kind with the windows as first axis. A shard is never changed; which clips are
done is read from the shards themselves, so a stage that was killed goes on where it stopped.

The table of clips also stands in front, in HDF5's user block, so that a hundred thousand shards are looked through in
seconds: "bmnas shard CRC32", then one line of JSON (stage, schema_version, key, file_bytes), then one line, the clips.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from cache_schemas.files import digest, replacing
from cache_schemas.pictures import Codec, decode_pictures, encode_pictures

SCHEMA_VERSION = 2
_MAGIC = b"bmnas shard "
_HEAD_BYTES = 8192
"""Of one read: more than the head of most shards."""
_BYTES = h5py.vlen_dtype(np.uint8)
_CLIP_COLUMNS = ("clip_id", "plan", "starts_s", "info", "reason")
"""Of the table of clips."""


class ShardError(ValueError):
    """A shard does not hold what its schema says; the message names the file and the field."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of a shard: `shape` without the windows axis, None where the size is free.

    pictures: it is written as one run of bytes a window, by this codec; whatever the codec, readers get the array.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    unit: str
    pictures: Codec | None = None

    def check(self, array: NDArray[Any], n_windows: int) -> None:
        """Raises ShardError when `array` is not (n_windows, *shape) of dtype."""
        fits = array.ndim == len(self.shape) + 1 and all(
            want in (None, have) for want, have in zip((n_windows, *self.shape), array.shape, strict=True)
        )
        if array.dtype != np.dtype(self.dtype) or not fits:
            want = (n_windows, *("any" if size is None else size for size in self.shape))
            raise ShardError(f"{self.name}: is {array.dtype} {array.shape}, must be {self.dtype} {want}")


@dataclass(frozen=True)
class ShardSchema:
    """What every shard of a stage holds."""

    stage: str
    arrays: tuple[ArraySpec, ...]

    def with_codec(self, codec: Codec) -> ShardSchema:
        """The same, with its pictures written by `codec`."""
        arrays = (replace(spec, pictures=codec) if spec.pictures else spec for spec in self.arrays)
        return replace(self, arrays=tuple(arrays))


@dataclass(frozen=True)
class ClipResult:
    """What a stage made of one clip. `plan` names what was asked for it; `reason` is empty when it went well."""

    clip_id: str
    plan: str
    starts_s: tuple[float, ...] = ()
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    info: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class ClipEntry:
    """Where a finished clip lies: rows `first_row` to `first_row + len(starts_s)` of `path`."""

    clip_id: str
    plan: str
    path: Path
    first_row: int
    starts_s: tuple[float, ...]
    info: Mapping[str, Any]
    reason: str

    def rows(self, starts_s: Iterable[float] | None = None) -> list[int]:
        """The rows of the windows that start at these times, of all where None."""
        chosen = self.starts_s if starts_s is None else starts_s
        return [self.first_row + self.starts_s.index(start) for start in chosen]


def write_shard(folder: Path, schema: ShardSchema, key: str, results: list[ClipResult]) -> Path:
    """The path of a new shard that holds `results`, computed under the stage parameters named by `key`."""
    good = [result for result in results if not result.reason]
    n_windows = sum(len(result.starts_s) for result in good)
    path = folder / f"{digest(key, [[result.clip_id, result.plan] for result in results])}.h5"
    clips = [{name: getattr(result, name) for name in _CLIP_COLUMNS} for result in results]
    names = {"stage": schema.stage, "schema_version": SCHEMA_VERSION, "key": key}
    block = _block_bytes(len(_head(names, 0, clips)))
    # In memory first: HDF5 takes the process down with it when a disk is full.
    image = io.BytesIO()
    with h5py.File(image, "w", userblock_size=block) as file:
        file.attrs.update(names)
        file.create_dataset("clips", data=[json.dumps(clip) for clip in clips], dtype=h5py.string_dtype())
        for spec in schema.arrays if good else ():
            array = np.concatenate([result.arrays[spec.name] for result in good])
            spec.check(array, n_windows)
            if spec.pictures:
                dataset = file.create_dataset(spec.name, (n_windows,), dtype=_BYTES)
                for row, pictures in enumerate(array):
                    dataset[row] = np.frombuffer(encode_pictures(pictures, spec.pictures), np.uint8)
            else:
                dataset = file.create_dataset(spec.name, data=array, chunks=(1, *array.shape[1:]))
            dataset.attrs["unit"] = spec.unit
    with image.getbuffer() as content:
        head = _head(names, len(content), clips)
        content[: len(head)] = head
        with replacing(path, one_of_many=True) as temporary:
            temporary.write_bytes(content)
    return path


def _head(names: Mapping[str, Any], file_bytes: int, clips: list[dict[str, Any]]) -> bytes:
    """What stands in front of a shard. Its length does not depend on `file_bytes`."""
    lines = [json.dumps({**names, "file_bytes": f"{file_bytes:016d}"}), json.dumps(clips)]
    text = "".join(f"{line}\n" for line in lines).encode()
    return _MAGIC + f"{zlib.crc32(text):08x}\n".encode() + text


def _block_bytes(n: int) -> int:
    """The size of a user block for n bytes: HDF5 wants a power of two, 512 at least."""
    return max(512, 1 << (n - 1).bit_length())


def scan_shards(folder: Path, schema: ShardSchema, key: str) -> dict[tuple[str, str], ClipEntry]:
    """Every clip that the folder's shards hold under `key`, by (clip_id, plan).

    Shards of other parameters are passed over; so is a file that is no shard of this schema. Where a clip lies in two,
    the one in which it went well counts: it was tried again.
    """
    entries: dict[tuple[str, str], ClipEntry] = {}
    for path in sorted(folder.glob("*.h5")):
        for entry in shard_entries(path, schema, key):
            known = entries.setdefault((entry.clip_id, entry.plan), entry)
            if known.reason and not entry.reason:
                entries[entry.clip_id, entry.plan] = entry
    return entries


def shard_entries(path: Path, schema: ShardSchema, key: str | None) -> Iterator[ClipEntry]:
    """The clips of one shard; none where it is not whole, not of this schema, or another key's (None: of any key)."""
    return _entries(path, _read_clips(path, schema, key))


def _read_clips(path: Path, schema: ShardSchema, key: str | None) -> list[dict[str, Any]]:
    """The table of clips; empty where the file is not whole, not ours, or another key's: that is computed again."""
    wanted = {"stage": schema.stage, "schema_version": SCHEMA_VERSION} | ({} if key is None else {"key": key})
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            if head.startswith(_MAGIC):
                return _clips_of_head(head, file, wanted)
        with _opened(path) as shard:  # of a version that wrote nothing in front
            if any(shard.attrs[name] != value for name, value in wanted.items()):
                return []
            return [json.loads(text) for text in shard["clips"].asstr()]
    except (OSError, KeyError, ValueError):
        return []


def _clips_of_head(head: bytes, file: BinaryIO, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Raises ValueError or KeyError where the head is damaged, or the file is not as long as it was."""
    crc, _, text = head[len(_MAGIC) :].partition(b"\n")
    while text.count(b"\n") < 2 and (more := file.read(_HEAD_BYTES)):
        text += more
    first, clips, _ = text.split(b"\n", 2)
    if zlib.crc32(first + b"\n" + clips + b"\n") != int(crc, 16):
        raise ValueError("the table of clips is damaged")
    names = json.loads(first)
    if int(names["file_bytes"]) != os.fstat(file.fileno()).st_size:
        raise ValueError("the file is not whole")
    found: list[dict[str, Any]] = json.loads(clips)
    return found if all(names[name] == value for name, value in wanted.items()) else []


def _entries(path: Path, clips: Iterable[dict[str, Any]]) -> Iterator[ClipEntry]:
    first_row = 0
    for clip in clips:
        starts = tuple(clip["starts_s"])
        if clip["reason"].endswith("(missing_modality: quarantine)"):
            continue  # an older version's: left out by a parameter, which nothing stored depends on any more
        yield ClipEntry(clip["clip_id"], clip["plan"], path, first_row, starts, clip["info"], clip["reason"])
        first_row += len(starts)


def read_rows(
    path: Path, schema: ShardSchema, rows: Iterable[int], *, only: Collection[str] | None = None
) -> dict[str, NDArray[Any]]:
    """{array name: (len(rows), ...)}: the given windows of a shard; raises ShardError naming the file.

    only: the arrays to read, all where None.
    """
    found = list(each_row(path, schema, rows, only=only))
    return {name: np.stack([row[name] for row in found]) for name in found[0]}


def each_row(
    path: Path, schema: ShardSchema, rows: Iterable[int], *, only: Collection[str] | None = None
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yields {array name: what it holds of one window}, as read_rows; the file is opened once for all."""
    try:
        with _opened(path) as file:
            datasets = [(spec, file[spec.name]) for spec in schema.arrays if only is None or spec.name in only]
            for row in rows:
                found = {spec.name: _row(dataset, row, spec) for spec, dataset in datasets}
                for spec, _ in datasets:
                    spec.check(found[spec.name][None], 1)
                yield found
    except (OSError, KeyError, ValueError) as error:
        again = f"delete the file and run `bmnas {schema.stage}` again"
        remedy = "set HDF5_USE_FILE_LOCKING=FALSE" if "unable to lock" in str(error) else again
        raise ShardError(f"{path}: {error}; {remedy}") from error


def _opened(path: Path) -> h5py.File:
    """A shard to read. Without HDF5's lock, which network disks may refuse: a shard is never changed."""
    return h5py.File(path, "r", locking=False)


def _row(dataset: h5py.Dataset, row: int, spec: ArraySpec) -> NDArray[Any]:
    return decode_pictures(dataset[row].tobytes()) if spec.pictures else np.asarray(dataset[row])


def stale_files(folder: Path, keep: Iterable[Path]) -> set[Path]:
    """Shards that no entry in use points to, and what killed writers left."""
    return (set(folder.glob("*.h5")) | set(folder.glob(".*.tmp"))) - set(keep)
