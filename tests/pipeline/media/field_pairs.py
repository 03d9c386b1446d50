"""An H.264 stream whose pictures are pairs of fields, a packet each: no encoder that ffmpeg ships writes them."""

from __future__ import annotations

from pathlib import Path

WIDTH, HEIGHT = 32, 64


class _Unit:
    """The bits of a unit."""

    def __init__(self, header: int) -> None:
        self._header, self._bits = header, ""

    def fixed(self, value: int, count: int) -> _Unit:
        self._bits += format(value, f"0{count}b")
        return self

    def ue(self, *values: int) -> _Unit:
        for value in values:
            digits = format(value + 1, "b")
            self._bits += "0" * (len(digits) - 1) + digits
        return self

    def samples(self, data: bytes) -> _Unit:
        """Whole bytes, at the next whole byte."""
        self._bits += "0" * (-len(self._bits) % 8) + "".join(format(byte, "08b") for byte in data)
        return self

    def whole(self) -> bytes:
        """With its start code; zeros are followed by a 3 where they would look like one."""
        bits = self._bits + "1"
        bits += "0" * (-len(bits) % 8)
        escaped, zeros = bytearray([self._header]), 0
        for byte in int(bits, 2).to_bytes(len(bits) // 8, "big"):
            if zeros >= 2 and byte <= 3:
                escaped.append(3)
                zeros = 0
            escaped.append(byte)
            zeros = 0 if byte else zeros + 1
        return b"\0\0\0\1" + bytes(escaped)


def write_field_pairs(path: Path, greys: list[int]) -> Path:
    """`path`: a picture of each grey, uncompressed; the lower field is a little brighter."""
    sps = _Unit(0x67).fixed(77, 8).fixed(0, 8).fixed(30, 8)
    sps.ue(0, 4, 2, 1).fixed(0, 1).ue(WIDTH // 16 - 1, HEIGHT // 32 - 1)  # numbers of 8 bits, shown as decoded
    sps.fixed(0, 1).fixed(0, 1).fixed(1, 1).fixed(0, 1).fixed(0, 1)  # fields are possible
    pps = _Unit(0x68).ue(0, 0).fixed(0, 2).ue(0, 0, 0).fixed(0, 3).ue(0, 0, 0).fixed(4, 3)
    stream = [sps.whole(), pps.whole()]
    for number, grey in enumerate(greys):
        for bottom in (0, 1):
            idr = number == 0 and not bottom
            stream.append(b"\0\0\0\1\x09\x10")  # a new packet begins
            unit = _Unit(0x65 if idr else 0x61).ue(0, 7, 0).fixed(number % 256, 8).fixed(1, 1).fixed(bottom, 1)
            if idr:
                unit.ue(0).fixed(0, 2)
            else:
                unit.fixed(0, 1)
            unit.ue(0, 1)  # the quantiser; not smoothed
            for _ in range(WIDTH * HEIGHT // 512):
                unit.ue(25).samples(bytes([grey + 4 * bottom]) * 256 + bytes([128]) * 128)
            stream.append(unit.whole())
    path.write_bytes(b"".join(stream))
    return path
