"""Which packets are a picture that is shown. Containers do not say: it is in the first bits of the picture itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from av.packet import Packet
from av.video.stream import VideoStream

_PARAMETERS, _SLICES = 7, (1, 2, 5)
"""H.264's units: of a sequence's parameters; of pictures."""
_FINE_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
"""H.264's profiles that may have other samples than 4:2:0 of 8 bits."""


def seen_packets(video: VideoStream) -> Callable[[Packet[Any]], bool]:
    """For the packets of this track, in their order: whether it is a picture of its own that is shown.

    None is VP8's and VP9's hidden picture, to which others refer, and the second field of H.264's field pairs.
    """
    context = video.codec_context
    if context.codec.canonical_name == "vp8":
        return lambda packet: bool(memoryview(packet)[0] & 0x10)
    if context.codec.canonical_name == "vp9":
        return lambda packet: _is_vp9_seen(memoryview(packet))
    if context.codec.canonical_name == "h264":
        fields = _Fields(bytes(context.extradata or b""))
        if fields.possible:
            return fields.is_first
    return lambda _: True


def _is_vp9_seen(data: memoryview) -> bool:
    if data[-1] & 0xE0 == 0xC0:  # a superframe: hidden pictures, and one that is shown
        return True
    bits = data[0] << 1 if data[0] & 0x30 == 0x30 else data[0]  # profile 3 has a bit more
    return bool(bits & 0x08 or bits & 0x02)  # an older picture is shown, or this one


class _Fields:
    """H.264's slice headers, as far as they tell a picture's second field."""

    def __init__(self, extradata: bytes) -> None:
        self._length_bytes = extradata[4] % 4 + 1 if extradata[:1] == b"\1" else 0
        """Of the units' lengths in MP4 and Matroska; 0 where start codes divide them."""
        self._sequence: tuple[bool, int] | None = None
        """Whether slices name a colour plane, and the bits of a picture's number."""
        self._open: tuple[int, int] | None = None
        """The number and the parity of a field that waits for its second."""
        found = _avcc_parameters(extradata) if self._length_bytes else _divide(extradata)
        self.possible = False
        for unit in found:
            if unit[0] & 31 == _PARAMETERS:
                self._sequence = _parse_parameters(unit)
                self.possible |= self._sequence is not None

    def is_first(self, packet: Packet[Any]) -> bool:
        """Whether the packet is a whole picture or its first field."""
        data = bytes(memoryview(packet)[:4096])
        for unit in _by_lengths(data, self._length_bytes) if self._length_bytes else _divide(data):
            if unit[0] & 31 in _SLICES and self._sequence is not None:
                field = _parse_slice(unit, *self._sequence)
                second = field is not None and self._open == (field[0], 1 - field[1])
                self._open = None if second else field
                return not second
        return True


class _Bits:
    """Reads an H.264 unit's bits; zeros behind its end."""

    def __init__(self, unit: bytes) -> None:
        plain = unit[1:].replace(b"\0\0\3", b"\0\0")
        self._bits, self._left = int.from_bytes(plain, "big"), 8 * len(plain)

    def take(self, count: int) -> int:
        """The next bits as a number."""
        self._left -= count
        return (self._bits >> self._left if self._left >= 0 else 0) & ((1 << count) - 1)

    def exp_golomb(self) -> int:
        """The next number of the variable length that H.264 calls ue(v); se(v) is as long."""
        zeros = 0
        while self._left > 0 and not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)


def _parse_parameters(unit: bytes) -> tuple[bool, int] | None:
    """(slices name a colour plane, bits of a picture's number); None where pictures are never of fields."""
    bits = _Bits(unit[:512])
    profile = bits.take(8)
    bits.take(16)
    bits.exp_golomb()
    planes = False
    if profile in _FINE_PROFILES:
        chroma = bits.exp_golomb()
        planes = chroma == 3 and bits.take(1) == 1
        bits.exp_golomb(), bits.exp_golomb(), bits.take(1)
        if bits.take(1):
            _skip_scaling(bits, 12 if chroma == 3 else 8)
    number_bits = bits.exp_golomb() + 4
    order = bits.exp_golomb()
    if order == 0:
        bits.exp_golomb()
    elif order == 1:
        bits.take(1), bits.exp_golomb(), bits.exp_golomb()
        for _ in range(min(bits.exp_golomb(), 255)):
            bits.exp_golomb()
    bits.exp_golomb(), bits.take(1), bits.exp_golomb(), bits.exp_golomb()
    return None if bits.take(1) else (planes, number_bits)


def _skip_scaling(bits: _Bits, lists: int) -> None:
    for i in range(lists):
        if bits.take(1):
            last = following = 8
            for _ in range(16 if i < 6 else 64):
                if following:
                    code = bits.exp_golomb()
                    following = (last + ((code + 1) // 2 if code % 2 else -code // 2)) % 256
                last = following or last


def _parse_slice(unit: bytes, planes: bool, number_bits: int) -> tuple[int, int] | None:
    """(the picture's number, 1 for the bottom field) where it is a field."""
    bits = _Bits(unit[:32])
    bits.exp_golomb(), bits.exp_golomb(), bits.exp_golomb()
    bits.take(2 if planes else 0)
    number = bits.take(number_bits)
    return (number, bits.take(1)) if bits.take(1) else None


def _divide(data: bytes) -> Iterator[bytes]:
    """The units between start codes."""
    return (unit for unit in data.split(b"\0\0\1")[1:] if unit)


def _by_lengths(data: bytes, length_bytes: int) -> Iterator[bytes]:
    at = 0
    while at + length_bytes < len(data):
        size = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes
        if size:
            yield data[at : at + size]
        at += size


def _avcc_parameters(extradata: bytes) -> Iterator[bytes]:
    """The sequences' parameters in MP4's and Matroska's header."""
    at = 6
    for _ in range(extradata[5] & 31 if len(extradata) > 5 else 0):
        size = int.from_bytes(extradata[at : at + 2], "big")
        if unit := extradata[at + 2 : at + 2 + size]:
            yield unit
        at += 2 + size
