"""Rows of several layers that lie one after another in one buffer: as tensors, and gathered all at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Place:
    """Where the rows of one layer lie in a buffer."""

    start: int
    stride: int
    """Bytes from one row to the next."""
    shape: tuple[int, int]
    """Of one row: (C_in, L), or (V * C_in, L)."""
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
        alike: dict[tuple[str, int], dict[str, Place]] = {}
        for layer, place in places.items():
            alike.setdefault((place.dtype, place.shape[1]), {})[layer] = place
        self._groups = [_Group(buffer, group, columns) for group in alike.values()]
        self._order = list(places)

    def __call__(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """{layer: (B, *shape)}, views of one new tensor for layers that are alike; rows: (B, columns) int64."""
        found: dict[str, torch.Tensor] = {}
        for group in self._groups:
            found.update(group.take(rows))
        if len(self._groups) == 1:
            return found
        return {layer: found[layer] for layer in self._order}


class _Group:
    """Layers of one dtype and length."""

    def __init__(self, buffer: torch.Tensor, places: Mapping[str, Place], columns: Mapping[str, int]) -> None:
        unit = math.gcd(*(n for place in places.values() for n in (place.start, place.stride, place.size)))
        whole = buffer[: len(buffer) // unit * unit].view(-1, unit)
        self._pieces = whole.view(next((d for d in _WIDEST if unit % d.itemsize == 0), torch.uint8))
        counts = [place.size // unit for place in places.values()]
        self._step = _repeated([place.stride // unit for place in places.values()], counts)
        first = _repeated([place.start // unit for place in places.values()], counts)
        self._first = first + torch.cat([torch.arange(count) for count in counts])
        self._column = _repeated([columns[layer] for layer in places], counts)
        # Kept ready: working this out for every batch would cost a tenth of the time.
        first_place = next(iter(places.values()))
        self._dtype, self._length = first_place.torch_dtype, first_place.shape[1]
        self._layers, self._channels = list(places), [place.shape[0] for place in places.values()]
        self._all_channels = sum(self._channels)

    def take(self, rows: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Every layer with its (B, *shape)."""
        wanted = rows if rows.shape[1] == 1 else rows.index_select(1, self._column)
        pieces = self._pieces.index_select(0, (wanted * self._step + self._first).view(-1))
        packed = pieces.view(self._dtype).view(len(rows), self._all_channels, self._length)
        return zip(self._layers, torch.split(packed, self._channels, 1), strict=True)


def _repeated(values: list[int], counts: list[int]) -> torch.Tensor:
    return torch.tensor(values).repeat_interleave(torch.tensor(counts))
