"""The decoder as a child that cannot escape: what it is handed, how long it is waited for; it dies with its parent.

What it answers is read as if it came from an attacker: it may have.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline.decoder.jail import why_unfiltered
from pipeline.decoder.messages import UNREADABLE, Block, read_message, readable, write_message
from pipeline.decoder.server import AGAIN, FILE, STATUS, STOP
from pipeline.media.files import MediaError, NoAudioError, PassingError, open_regular, refuse_stand_ins

MAX_SECONDS = 3600.0  # longer clips are read to here
MAX_PIXELS = 8192 * 4352
MAX_STREAMS = 32
MAX_PICTURES = 1 << 20
"""Of a clip: an hour of 290 a second."""
MAX_OUTPUT_BYTES = 2 << 30
MAX_MEMORY_BYTES = 4 << 30
"""Of a decoder's address space. The largest picture, H.264's 16 references to it and a scaled copy fit into it."""
WALL_SECONDS = 300.0
"""A file that is waited for longer is given up, its decoder killed: the machine may have been busy, or a disk stuck."""
CPU_SECONDS = 240
"""A file that uses so much of a core is given up for good. Less than the time that it is waited for: it comes first."""
GRACE_SECONDS = 5.0
"""A killed decoder that is not gone by then, for it waits for a disk, is left behind."""
SERVER = "pipeline.decoder.server"
_NEEDED = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")
"""All of the environment that a decoder sees: Python may not start without. The rest may hold secrets."""


class _Reader:
    """A decoder's server of our own; credentials: one that reads C2PA manifests."""

    def __init__(self, *, credentials: bool) -> None:
        self.credentials = credentials
        _tell_what_is_missing()
        self.file: object = None
        """Which it has read last, and for what work: a copy's time is limited, that of a long file's parts is not."""
        self.calls, theirs = socket.socketpair()
        places = [str(Path(__file__).parents[2]), *sys.path]  # the modules that are used here
        with theirs:
            number = theirs.fileno()
            serve = f"import sys; sys.path[:] = {places!r}; from {SERVER} import serve; serve({number}, {credentials=})"
            command = [sys.executable, "-S", "-c", serve]
            self._popen = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _NEEDED if name in os.environ},
                pass_fds=[number],
                start_new_session=True,
            )

    def end(self, patience_s: float = 10.0) -> None:
        """It ends by itself, and its copy with it, when nobody can ask any more; after so long it is killed."""
        self.calls.close()
        try:
            self._popen.wait(patience_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(GRACE_SECONDS)


@functools.cache
def _tell_what_is_missing() -> None:
    if why := why_unfiltered():
        logging.getLogger(__name__).warning("media files are decoded with limits, but without a wall: %s", why)


_idle: list[_Reader] = []
_lock = threading.Lock()


def _end_all() -> None:
    while _idle:
        _idle.pop().end()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_idle.clear)  # they belong to the parent


@dataclass(eq=False)
class _Patience:
    left_s: float
    max_s: float | None = None


_patience: ContextVar[_Patience | None] = ContextVar("patience", default=None)


@contextmanager
def one_file(max_seconds: float | None = None) -> Iterator[None]:
    """Whatever is read inside is one file's work: all of it together is waited for WALL_SECONDS, and has a decoder.

    max_seconds: it is read to there; None: to MAX_SECONDS.
    """
    token = _patience.set(_Patience(WALL_SECONDS, max_seconds))
    try:
        yield
    finally:
        _patience.reset(token)


def longest_s() -> float:
    """So far is what is read here read at most."""
    patience = _patience.get()
    return MAX_SECONDS if patience is None or patience.max_s is None else patience.max_s


class Process:
    """One file that is being read: the answer, where its function writes to, and its end."""

    def __init__(self, function: str, path: Path, outputs: Sequence[int], request: dict[str, Any], **blocks: Block):
        self._patience = _patience.get() or _Patience(WALL_SECONDS)
        self._outputs = [fd for fd in outputs if _can_be_sealed(fd)]  # not pipes, which whoever made them closes
        self._status: int | None = None
        limits = {
            "max_streams": MAX_STREAMS,
            "max_pixels": MAX_PIXELS,
            "max_s": longest_s(),
            "max_pictures": MAX_PICTURES,
            "memory_bytes": MAX_MEMORY_BYTES,
            "output_bytes": MAX_OUTPUT_BYTES,
            "cpu_s": CPU_SECONDS,
        }
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(_open_in_time(path, self._patience.left_s))
            question = stack.enter_context(memory_file())
            self._answer = memory_file()
            write_message(question.fileno(), {**request, "function": function, "limits": limits}, **blocks)
            _seal(question.fileno())
            fds = [question.fileno(), self._answer.fileno(), file.fileno(), *outputs]
            self._reader = _ask(fds, credentials=function == "read_manifest")

    def wait_for(self, fd: int) -> None:
        """Returns when there is something to read; raises MediaError when that takes too long, all waits together."""
        start = time.monotonic()
        ready = self._patience.left_s > 0 and readable([fd], self._patience.left_s)
        self._patience.left_s -= time.monotonic() - start
        if not ready:
            raise too_long()

    def result(self) -> tuple[dict[str, Any], dict[str, memoryview]]:
        """(header, blocks) of the answer, when it has ended; MediaError when there is none, or it says why not."""
        if self._status is None:
            self.wait_for(self._reader.calls.fileno())
            self._end()
        if self._status != 0:
            raise self._died()
        _seal(self._answer.fileno())
        for output in self._outputs:
            _seal(output, write=False)  # or older kernels would not let it be mapped as it is
        try:
            header, blocks = read_message(self._answer.fileno())
            header = _printable(header)
            error = _explain(header) if "error" in header else None
        except Exception as fault:
            raise nonsense() from fault
        if error:
            raise error
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
            if readable([self._reader.calls.fileno()], GRACE_SECONDS):
                told = self._reader.calls.recv(STATUS.size)
        if len(told) == STATUS.size:
            (self._status,) = STATUS.unpack(told)
            with _lock:
                _idle.append(self._reader)
        else:  # killed from outside, for want of memory perhaps; or stuck
            self._status = -signal.SIGKILL
            self._reader.end(patience_s=0)

    def _died(self) -> Exception:
        if self._status == -signal.SIGXFSZ:
            return MediaError(f"decoding gives more than {MAX_OUTPUT_BYTES >> 20} MiB")
        if self._status == -signal.SIGXCPU:
            return MediaError(f"decoding takes more than {CPU_SECONDS} s of a core")
        if self._status in _FROM_OUTSIDE:
            return PassingError(f"the decoder was ended by {_name(self._status)}: is there enough memory?")
        if self._status == -signal.SIGSYS:
            return MediaError("its decoder was stopped at what none may do (SIGSYS): the file may be an attack")
        if self._status is not None and self._status < 0:
            return MediaError(f"the decoder died of it ({_name(self._status)})")
        return RuntimeError("the decoder failed: see its traceback above")


def _name(status: int) -> str:
    return signal.Signals(-status).name


def _ask(fds: Sequence[int], *, credentials: bool) -> _Reader:
    """The reader that has taken the request: where there is one, the one that has read the file before."""
    found = os.fstat(fds[2])
    file = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, _patience.get()
    while True:
        with _lock:
            able = [reader for reader in _idle if reader.credentials == credentials]
            knows = [reader for reader in able if reader.file == file]
            idle = (knows or able)[-1:]
            _idle[:] = [reader for reader in _idle if reader not in idle]
        fresh = not idle
        reader = idle[0] if idle else _Reader(credentials=credentials)
        try:
            socket.send_fds(reader.calls, [AGAIN if reader.file == file else FILE], fds)
            reader.file = file
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


def nonsense() -> MediaError:
    """The reason of a clip about which the decoder says what cannot be."""
    return MediaError("the decoder's answer makes no sense")


def memory_file() -> IO[bytes]:
    """A file without a name that the decoder can write to: in memory, so that a full disk is no reason to fail."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("media", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "w+b")
    return tempfile.TemporaryFile()


def _can_be_sealed(fd: int) -> bool:
    try:
        return bool(hasattr(fcntl, "F_GET_SEALS") and fcntl.fcntl(fd, fcntl.F_GET_SEALS) >= 0)
    except OSError:
        return False


def _seal(fd: int, *, write: bool = True) -> None:
    """From now on nobody changes a memory file's size, or its contents: what is mapped stays."""
    if _can_be_sealed(fd):
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | (fcntl.F_SEAL_WRITE if write else 0)
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        except OSError:
            raise MediaError("the decoder holds on to what it wrote") from None


def _open_in_time(path: Path, patience_s: float) -> IO[bytes]:
    """As `open_regular`, and no stand-in; given up after so long: a disk that does not answer may never open it."""
    opened = Future[IO[bytes]]()

    def open_it() -> None:
        with contextlib.ExitStack() as stack, contextlib.suppress(InvalidStateError):  # given up, and closed
            try:
                file = stack.enter_context(open_regular(path))
                refuse_stand_ins(file.fileno())
            except Exception as error:
                opened.set_exception(error)
            else:
                opened.set_result(file)
                stack.pop_all()

    threading.Thread(target=open_it, daemon=True).start()
    try:
        return opened.result(max(patience_s, 0))
    except TimeoutError:
        if opened.cancel():
            raise too_long() from None
        return opened.result()


@contextmanager
def memory_files(count: int) -> Iterator[list[IO[bytes]]]:
    """So many memory files, closed at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(memory_file()) for _ in range(count)]


_FROM_OUTSIDE = {-number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
_CUT_SHORT = MediaError("cut short: the file ends before its streams are described")
_KINDS = {"broken": RuntimeError, "no sound": NoAudioError, "refused": MediaError}
_REASONS = (
    (UNREADABLE, PassingError(UNREADABLE)),
    ("Cannot allocate memory", PassingError("it needs more memory than a decoder is given, or than there is")),
    ("No space left on device", PassingError("there is no room, in memory or on a disk, for what it decodes to")),
    ("moov atom not found", MediaError("cut short, or not a media file: it has no index (moov atom not found)")),
    ("Format not on whitelist", MediaError("not a container that is accepted (playlists never are)")),
    ("not on whitelist", MediaError("refers to another file or address, which is refused")),
    ("max_streams", MediaError(f"the file has more than {MAX_STREAMS} streams")),
    ("encryption info", MediaError("the picture or the sound is encrypted")),
    ("Invalid data found", MediaError("not a media file, or corrupt beyond reading")),
    ("File ended prematurely", _CUT_SHORT),
    ("End of file", _CUT_SHORT),
)
"""What ffmpeg says, and what that means."""


def _explain(header: dict[str, Any]) -> Exception:
    if found := re.search(r"Picture size (\d+x\d+) exceeds", header["log"]):
        return MediaError(f"the picture is {found[1]}: more than {MAX_PIXELS} pixels")
    if kind := _KINDS.get(header["error"]):
        return kind(header["reason"])
    told = header["log"] + header["reason"]
    other = MediaError(f"it cannot be read: {header['reason'][:200]}")
    return next((type(error)(*error.args) for sign, error in _REASONS if sign in told), other)


def _printable(told: Any) -> Any:
    """The same with texts that can go into lists and to terminals."""
    if isinstance(told, dict):
        return {name: _printable(each) for name, each in told.items()}
    if isinstance(told, str):
        return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in told)
    return told
