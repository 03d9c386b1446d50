"""An address range in which parts of files appear where they are wanted, so that many shards are one array."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAPS = os.name == "posix"
"""Whether files can be mapped to a chosen address; elsewhere they are read into the range."""
WINDOW_BYTES = 2**16
"""What Linux maps around a byte that is touched."""
_MAP_FIXED = 0x10  # the same on Linux, macOS and the BSDs; Python's mmap does not name it
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0x40  # room to map into, which costs no memory


class Memory:
    """`size` bytes, zeros until something is put there; only what is touched takes memory."""

    def __init__(self, size: int, *, writable: bool, maps: bool) -> None:
        """writable: who has the bytes may change them; what is mapped then becomes a private copy, page by page.

        maps: files may be mapped; without, they are read into the range.
        """
        self._maps = maps and MAPS
        flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE} if MAPS else {}
        self._range = mmap.mmap(-1, max(1, size), **flags)
        self._protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0) if MAPS else 0
        self.view = memoryview(self._range)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._range, np.uint8)
        self.mapped: dict[int, int] = {}
        """{start: bytes} of the files that are mapped"""

    def map_file(self, file: int, start: int, size: int, room: int) -> bool:
        """Lets the first `size` bytes of a file appear at `start`; False where that cannot be.

        room: bytes up to the next file: only whole pages can be mapped.
        """
        if not self._maps or start % mmap.PAGESIZE or room % mmap.PAGESIZE:
            return False
        flags = mmap.MAP_PRIVATE | _MAP_FIXED | _MAP_NORESERVE
        address = self.bytes.ctypes.data + start
        found = _mmap()(address, size, self._protection, flags, file, 0)
        if found != address:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self.mapped[start] = size
        return True

    def release(self) -> None:
        """Gives the memory back to the system: what was mapped is read again when needed, the rest is zeros."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._range.madvise(mmap.MADV_DONTNEED)


def _mmap() -> Any:
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_ssize_t]  # off_t
    return function
