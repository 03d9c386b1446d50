"""Rows of several layers that lie one after another in one buffer: as tensors, and gathered all at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Place:
    """Where the rows of one layer lie in a buffer."""

    start: int
    stride: int
    """Bytes from one row to the next."""
    shape: tuple[int, ...]
    """Of one row: (C_in, L), or (V, C_in, L)."""
    dtype: str

    @property
    def size(self) -> int:
        """Bytes of a row."""
        return math.prod(self.shape) * self.torch_dtype.itemsize

    @property
    def torch_dtype(self) -> torch.dtype:
        """As torch calls it."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    def tensor(self, buffer: torch.Tensor, count: int) -> torch.Tensor:
        """(count, *shape), a view of `buffer` (bytes,)."""
        end = self.start + max(0, (count - 1) * self.stride + self.size) * (count > 0)
        values = buffer[self.start : end].view(self.torch_dtype)
        inner = [math.prod(self.shape[i + 1 :]) for i in range(len(self.shape))]
        return values.as_strided((count, *self.shape), (self.stride // self.torch_dtype.itemsize, *inner))


_WIDEST = (torch.complex128, torch.int64, torch.int32, torch.int16)


class Gather:
    """Takes rows of all layers at once: one index_select, as fast as on one tensor that held them side by side.

    The buffer is seen as pieces of `unit` bytes, the largest that every layer's rows are made of:

        layer a   |a0 a0|a1 a1|a2 a2|...   row r: pieces 2r, 2r + 1
        layer b   |b0|b1|b2|...            row r: piece  6 + r          ->   |a2 a2 b2|a0 a0 b0| for rows 2, 0
    """

    def __init__(self, buffer: torch.Tensor, places: Mapping[str, Place], columns: Mapping[str, int]) -> None:
        """buffer: (bytes,) uint8; columns: {layer: which of a window's row numbers is the layer's}."""
        self._places = places
        unit = math.gcd(*(n for place in places.values() for n in (place.start, place.stride, place.size)))
        unit = max(unit, 1)
        whole = buffer[: len(buffer) // unit * unit].view(-1, unit)
        dtype = next((dtype for dtype in _WIDEST if unit % dtype.itemsize == 0), torch.uint8)
        self._pieces = whole.view(dtype)
        counts = [place.size // unit for place in places.values()]
        self._step = _repeated([place.stride // unit for place in places.values()], counts)
        self._first = torch.cat(
            [torch.arange(n) + place.start // unit for n, place in zip(counts, places.values(), strict=True)]
        )
        self._column = _repeated([columns[layer] for layer in places], counts)

    def __call__(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """{layer: (B, *shape)}, views of one new tensor; rows: (B, columns) int64."""
        taken = self._pieces.index_select(0, self._numbers(rows)).view(torch.uint8)
        packed = taken.view(len(rows), sum(place.size for place in self._places.values()))
        found, start = {}, 0
        for layer, place in self._places.items():
            values = packed[:, start : start + place.size]
            if (start | packed.shape[1]) % place.torch_dtype.itemsize:  # beside a layer of narrower numbers
                values = values.clone(memory_format=torch.contiguous_format)
            found[layer] = values.view(place.torch_dtype).view(len(rows), *place.shape)
            start += place.size
        return found

    def _numbers(self, rows: torch.Tensor) -> torch.Tensor:
        """(B * pieces of a row,): which pieces make up the rows."""
        taken = rows if rows.shape[1] == 1 else rows.index_select(1, self._column)
        return (taken * self._step + self._first).view(-1)


def _repeated(values: list[int], counts: list[int]) -> torch.Tensor:
    return torch.tensor(values).repeat_interleave(torch.tensor(counts))
