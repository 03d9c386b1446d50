"""ONNX files of strangers: what is refused before onnxruntime sees it, told from the bytes alone.

A graph is data as long as it has standard operators only and all its weights inside: no file is named, no code.
"""

from __future__ import annotations

from collections.abc import Iterator

_PARTS = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""{message: {number of a field: the message that it holds}}, as onnx.proto has them, where a tensor can be inside."""
_REFUSED = {
    ("model", 20): "a training graph",
    ("model", 25): "functions of its own",
    ("tensor", 13): "weights in another file",
    ("tensor", 14): "weights in another file",
}
_DOMAIN = ("node", 7)
_STANDARD = (b"", b"ai.onnx")
_MOST_DEEP = 16


def check_graph(content: bytes) -> None:
    """Raises ValueError where an ONNX file is none, or holds what is not data of its own."""
    _check(memoryview(content), "model", 0)


def _check(raw: memoryview, kind: str, depth: int) -> None:
    if depth > _MOST_DEEP:
        raise ValueError(f"graphs more than {_MOST_DEEP} deep in one another")
    for field, value in _fields(raw):
        if (kind, field) == _DOMAIN and (isinstance(value, int) or bytes(value) not in _STANDARD):
            raise ValueError("an operator that is not of ONNX itself")
        if (kind, field) in _REFUSED and value != 0:
            raise ValueError(_REFUSED[kind, field])
        if inner := _PARTS[kind].get(field):
            if isinstance(value, int):
                raise ValueError(f"it is no ONNX file: field {field} of a {kind} is a number")
            _check(value, inner, depth + (inner == "graph"))


def _fields(raw: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(number, value) of every field of a message of protocol buffers."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        if not 8 <= key < 1 << 32:  # readers that keep 32 bits would see another field
            raise ValueError("it is no ONNX file")
        wire = key & 7
        if wire == 0:
            number, at = _varint(raw, at)
            yield key >> 3, number
            continue
        if wire not in _SIZES:
            raise ValueError("it is no ONNX file")
        size, at = _varint(raw, at) if wire == 2 else (_SIZES[wire], at)
        if at + size > len(raw):
            raise ValueError("it is no ONNX file, or cut off")
        yield key >> 3, raw[at : at + size]
        at += size


_SIZES = {1: 8, 2: 0, 5: 4}
"""{wire type: bytes of its value}; 2 says how many itself."""


def _varint(raw: memoryview, at: int) -> tuple[int, int]:
    """(the number there, where the next begins)"""
    value = 0
    for i in range(10):
        if at + i >= len(raw):
            break
        value |= (raw[at + i] & 0x7F) << 7 * i
        if raw[at + i] < 0x80:
            return value, at + i + 1
    raise ValueError("it is no ONNX file, or cut off")
