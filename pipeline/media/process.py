"""The decoder as a child that cannot escape: what it may open, how much it may use; it dies with its parent."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipeline.decoder.container import UNREADABLE
from pipeline.decoder.messages import Block, read_message, write_message
from pipeline.decoder.server import REQUEST, STATUS, STOP
from pipeline.media.files import MediaError, NoAudioError, PassingError, open_regular, refuse_stand_ins

MAX_SECONDS = 3600.0  # longer clips are read to here
MAX_PIXELS = 8192 * 4352
MAX_STREAMS = 32
MAX_OUTPUT_BYTES = 2 << 30
MAX_MEMORY_BYTES = 4 << 30
"""Of a decoder's address space. The largest picture, H.264's 16 references to it and a scaled copy fit into it."""
WALL_SECONDS = 300.0
"""A file that is waited for longer is given up, its decoder killed: the machine may have been busy, or a disk stuck."""
CPU_SECONDS = 240
"""A file that uses so much of a core is given up for good. Less than the time that it is waited for: it comes first."""


class _Reader:
    """A `pipeline.decoder.server` of our own."""

    def __init__(self) -> None:
        self.calls, theirs = socket.socketpair()
        places = [str(Path(__file__).parents[2]), *sys.path]  # the modules that are used here
        with theirs:
            number = theirs.fileno()
            serve = f"import sys; sys.path[:] = {places!r}; from pipeline.decoder.server import serve; serve({number})"
            command = [sys.executable, "-S", "-c", serve]
            self._popen = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[number], start_new_session=True
            )

    def end(self) -> None:
        """It ends by itself, and its copy with it, when nobody can ask any more."""
        self.calls.close()
        try:
            self._popen.wait(10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()


_idle: list[_Reader] = []
_lock = threading.Lock()


def _end_all() -> None:
    while _idle:
        _idle.pop().end()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_idle.clear)  # they belong to the parent


class Process:
    """One file that is being read: the answer, where its function writes to, and its end."""

    def __init__(self, function: str, path: Path, outputs: Sequence[int], request: dict[str, Any], **blocks: Block):
        self._patience_s = WALL_SECONDS
        self._status: int | None = None
        limits = {
            "max_streams": MAX_STREAMS,
            "max_pixels": MAX_PIXELS,
            "max_s": MAX_SECONDS,
            "memory_bytes": MAX_MEMORY_BYTES,
            "output_bytes": MAX_OUTPUT_BYTES,
            "cpu_s": CPU_SECONDS,
        }
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open_regular(path))
            refuse_stand_ins(file.fileno())
            question = stack.enter_context(memory_file())
            self._answer = memory_file()
            write_message(question.fileno(), {**request, "function": function, "limits": limits}, **blocks)
            fds = [question.fileno(), self._answer.fileno(), file.fileno(), *outputs]
            self._reader = _ask(fds)

    def wait_for(self, fd: int) -> None:
        """Returns when there is something to read; raises MediaError when that takes too long, all waits together."""
        start = time.monotonic()
        ready = self._patience_s > 0 and select.select([fd], [], [], self._patience_s)[0]
        self._patience_s -= time.monotonic() - start
        if not ready:
            raise too_long()

    def result(self) -> tuple[dict[str, Any], dict[str, memoryview]]:
        """(header, blocks) of the answer, when it has ended; MediaError when there is none, or it says why not."""
        if self._status is None:
            self.wait_for(self._reader.calls.fileno())
            self._end()
        if self._status != 0:
            raise self._died()
        header, blocks = read_message(self._answer.fileno())
        if "error" in header:
            raise _explain(header)
        return header, blocks

    def kill(self) -> None:
        """Ends it; harmless when it has ended."""
        if self._status is None:
            with contextlib.suppress(OSError):
                self._reader.calls.send(STOP)
            self._end()
        self._answer.close()

    def _end(self) -> None:
        told = b""
        with contextlib.suppress(OSError):
            told = self._reader.calls.recv(STATUS.size)
        if len(told) == STATUS.size:
            (self._status,) = STATUS.unpack(told)
            with _lock:
                _idle.append(self._reader)
        else:  # killed from outside, for want of memory perhaps
            self._status = -signal.SIGKILL
            self._reader.end()

    def _died(self) -> Exception:
        if self._status == -signal.SIGXFSZ:
            return MediaError(f"decoding gives more than {MAX_OUTPUT_BYTES >> 20} MiB")
        if self._status == -signal.SIGXCPU:
            return MediaError(f"decoding takes more than {CPU_SECONDS} s of a core")
        if self._status in _FROM_OUTSIDE:
            return PassingError(f"the decoder was ended by {_name(self._status)}: is there enough memory?")
        if self._status is not None and self._status < 0:
            return MediaError(f"the decoder died of it ({_name(self._status)})")
        return RuntimeError("the decoder failed: see its traceback above")


def _name(status: int) -> str:
    return signal.Signals(-status).name


def _ask(fds: Sequence[int]) -> _Reader:
    """The reader that has taken the request."""
    while True:
        with _lock:
            reader = _idle.pop() if _idle else None
        fresh = reader is None
        reader = reader or _Reader()
        try:
            socket.send_fds(reader.calls, [REQUEST], fds)
        except OSError:  # it was killed while nobody looked
            reader.end()
            if fresh:
                raise
            continue
        return reader


@contextmanager
def reading(
    function: str, path: Path, outputs: Sequence[int], request: dict[str, Any], **blocks: Block
) -> Iterator[Process]:
    """The `Process` that reads the file; it is gone when the block ends."""
    process = Process(function, path, outputs, request, **blocks)
    try:
        yield process
    finally:
        process.kill()


def too_long() -> PassingError:
    """The reason of a clip that was given up."""
    return PassingError(f"decoding took longer than {WALL_SECONDS:g} s")


def memory_file() -> IO[bytes]:
    """A file without a name that the decoder can write to: in memory, so that a full disk is no reason to fail."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("media"), "w+b")
    return tempfile.TemporaryFile()


@contextmanager
def memory_files(count: int) -> Iterator[list[IO[bytes]]]:
    """So many memory files, closed at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(memory_file()) for _ in range(count)]


_FROM_OUTSIDE = {-number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
_PASSING = (
    (UNREADABLE, UNREADABLE),
    ("Cannot allocate memory", "it needs more memory than a decoder is given, or than there is"),
)
_REASONS = (
    ("moov atom not found", "cut short, or not a media file: it has no index (moov atom not found)"),
    ("Format not on whitelist", "not a container that is accepted (playlists never are)"),
    ("not on whitelist", "refers to another file or address, which is refused"),
    ("max_streams", f"the file has more than {MAX_STREAMS} streams"),
    ("Invalid data found", "not a media file, or corrupt beyond reading"),
)


def _explain(header: dict[str, Any]) -> MediaError:
    if found := re.search(r"Picture size (\d+x\d+) exceeds", header["log"]):
        return MediaError(f"the picture is {found[1]}: more than {MAX_PIXELS} pixels")
    if header["error"] == "no sound":
        return NoAudioError(header["reason"])
    if header["error"] == "refused":
        return MediaError(header["reason"])
    told = header["log"] + header["reason"]
    for sign, reason in _PASSING:
        if sign in told:
            return PassingError(reason)
    for sign, reason in _REASONS:
        if sign in told:
            return MediaError(reason)
    return MediaError(f"it cannot be read: {header['reason'][:200]}")
