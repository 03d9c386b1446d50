"""A bundle of a few hundred bytes a member, and zip files made by hand, as an attacker makes them."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from cache_schemas.files import write_json
from cache_schemas.run import RetrainEntry, RetrainRun, write_run

ABOUT = {"bmnas": "0.1.0", "networks": {"fusion": [0]}, "backbones": []}
ENTRY = RetrainEntry(
    network="fusion", seed=0, genotype={}, spec={}, weights="fusion-0.safetensors", best_epoch=0, curves=[]
)


def write_folder(folder: Path) -> Path:
    """What lies in the smallest bundle."""
    for place in ("retrain", "evaluate"):
        (folder / place).mkdir(parents=True)
    write_run(folder / "retrain" / "retrain.json", RetrainRun(params={}, backbones={}, entries=[ENTRY]))
    save_file({"weight": np.zeros(2, np.float32)}, folder / "retrain" / "fusion-0.safetensors")
    save_file({"mean": np.zeros(1, np.float32)}, folder / "evaluate" / "unlike.safetensors")
    write_json(folder / "evaluate" / "evidence.json", {"a": 1})
    write_json(folder / "evaluate" / "metrics.json", {"b": 2})
    return folder


def members_of(folder: Path) -> dict[str, bytes]:
    """{name: content} of the files below the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def manifest_of(listed: Mapping[str, bytes], /, **changes: Any) -> bytes:
    """bundle.json for these members, honest but for the changes."""
    members = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in listed.items()}
    content = {"format": "bmnas detector", "version": 1, **ABOUT, "members": members} | changes
    return json.dumps(content).encode()


def raw_zip(members: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A stored zip file, written without the product's code."""
    data, directory, count = b"", b"", 0
    for name, content in members:
        numbers = (20, 0, 0, 0, 33, zlib.crc32(content), len(content), len(content), len(name), 0)
        directory += b"PK\1\2" + struct.pack("<H", 3 << 8 | 20)
        directory += struct.pack("<5H3L2H", *numbers) + struct.pack("<3H2L", 0, 0, 0, 0o100644 << 16, len(data)) + name
        data += b"PK\3\4" + struct.pack("<5H3L2H", *numbers) + name + content
        count += 1
    return data + directory + b"PK\5\6" + struct.pack("<4H2LH", 0, 0, count, count, len(directory), len(data), 0)


def raw_bundle(members: Mapping[str, bytes], *, first: bytes | None = None) -> bytes:
    """A bundle of these members, honest but for what `first`, its bundle.json, says."""
    manifest = manifest_of(members) if first is None else first
    return raw_zip([(b"bundle.json", manifest), *((name.encode(), members[name]) for name in sorted(members))])


Fields = Mapping[str, tuple[int, str]]
LOCAL: Fields = {
    "flags": (6, "H"), "method": (8, "H"), "date": (12, "H"), "crc": (14, "L"), "packed": (18, "L"), "size": (22, "L"),
}  # fmt: skip
CENTRAL: Fields = {
    "made_by": (4, "H"), "flags": (8, "H"), "method": (10, "H"), "date": (14, "H"), "crc": (16, "L"),
    "packed": (20, "L"), "size": (24, "L"), "letters": (28, "H"), "extra": (30, "H"), "comment": (32, "H"),
    "disk": (34, "H"), "attributes": (38, "L"), "offset": (42, "L"),
}  # fmt: skip
END: Fields = {
    "disk": (4, "H"), "here": (8, "H"), "members": (10, "H"), "length": (12, "L"), "start": (16, "L"),
    "comment": (20, "H"),
}  # fmt: skip


class Patch:
    """Bytes of a zip file, to be changed field by field."""

    def __init__(self, raw: bytes) -> None:
        self.raw = bytearray(raw)
        self.end = len(raw) - 22
        place = struct.unpack_from("<L", raw, self.end + 16)[0]
        self.central: list[int] = []
        self.local: list[int] = []
        while place < self.end:
            letters, extra, comment = struct.unpack_from("<3H", raw, place + 28)
            self.central.append(place)
            self.local.append(struct.unpack_from("<L", raw, place + 42)[0])
            place += 46 + letters + extra + comment

    def both(self, i: int, **fields: int) -> Patch:
        """Changes the fields in both headers of member i, where they have them."""
        self.at(self.local[i], LOCAL, {name: of for name, of in fields.items() if name in LOCAL})
        return self.at(self.central[i], CENTRAL, fields)

    def ending(self, **fields: int) -> Patch:
        """Changes the fields of the end of the directory."""
        return self.at(self.end, END, fields)

    def at(self, start: int, table: Fields, fields: Mapping[str, int]) -> Patch:
        """Changes fields of the header at a place."""
        for name, value in fields.items():
            place, kind = table[name]
            struct.pack_into(f"<{kind}", self.raw, start + place, value)
        return self

    def insert(self, place: int, added: bytes) -> Patch:
        """The same with more bytes at a place."""
        self.raw[place:place] = added
        return self
