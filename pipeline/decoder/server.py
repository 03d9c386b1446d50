"""Waits for files to read; a copy of this process reads each, behind the wall of `pipeline.decoder.jail`.

A copy costs two milliseconds, a new decoder tens. A copy reads one file, however often it is asked about it, and ends
after anything odd: what a bad file does to its reader ends with it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pkgutil
import signal
import socket
import struct
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import av
import av.logging

from pipeline.decoder import jail
from pipeline.decoder.container import NoSoundError, RefusedError, list_packets
from pipeline.decoder.messages import read_message, readable, write_message
from pipeline.decoder.pictures import read_pictures
from pipeline.decoder.sound import read_sound

FILE, AGAIN, STOP = b"f", b"a", b"k"
_WELL, _ODD = b"w", b"o"
STATUS = struct.Struct("i")
MOST_OUTPUTS = 5
FUNCTIONS: dict[str, Callable[..., tuple[dict[str, Any], dict[str, Any]]]] = {
    function.__name__: function for function in (list_packets, read_sound, read_pictures, jail.report_jail)
}


def serve(number: int, *, credentials: bool = False) -> None:
    """Answers at the socket `number` until its other end is closed; credentials: about C2PA manifests, too.

    A request is one byte with open files: the request's message, the answer's, the media file, and what its function
    writes to. The byte says whether it is the media file of the request before. The exit status follows: 0, or what
    the copy died of.
    """
    av.logging.set_level(av.logging.ERROR)
    _import_all()
    if credentials:  # a library of 50 MB, that no other file needs
        from pipeline.decoder.credentials import read_manifest, warm_up  # noqa: PLC0415

        warm_up()
        FUNCTIONS["read_manifest"] = read_manifest
    jail.separate()
    gc.freeze()  # what is there now is shared with the copies, not looked through by each
    # Without a thread and with nothing open that matters: only so is a fork safe.
    with socket.socket(fileno=number) as calls:
        copy: _Copy | None = None
        while True:
            byte, fds, _, _ = socket.recv_fds(calls, 1, 3 + MOST_OUTPUTS)
            if byte in (FILE, AGAIN):  # not a stop that came too late
                if copy and not (byte == AGAIN and copy.takes(fds)):
                    copy.end()
                    copy = None
                copy = copy or _Copy(calls, fds)
                for fd in fds:
                    os.close(fd)
                status, copy = copy.attend(calls)
                with contextlib.suppress(BrokenPipeError):  # whoever asked is gone
                    calls.send(STATUS.pack(status))
            elif not byte:
                if copy:
                    copy.end()
                return


def _import_all() -> None:
    """A copy can open no file, so what PyAV imports when it is needed is imported now."""
    for module in pkgutil.iter_modules(av.__path__):
        if module.name not in ("__main__", "datasets"):
            package = importlib.import_module(f"av.{module.name}")
            for inner in pkgutil.iter_modules(getattr(package, "__path__", [])):
                importlib.import_module(f"{package.__name__}.{inner.name}")


class _Copy:
    """A copy of this process that reads a file."""

    def __init__(self, calls: socket.socket, fds: list[int]) -> None:
        self._calls, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            calls.close()
            self._calls.close()
            _work(theirs, fds)
        theirs.close()

    def takes(self, fds: list[int]) -> bool:
        """Whether it is there to read the same file again."""
        try:
            socket.send_fds(self._calls, [AGAIN], fds)
        except OSError:
            return False
        return True

    def attend(self, calls: socket.socket) -> tuple[int, _Copy | None]:
        """(exit status, who is left). The copy is killed when whoever asked says so, or is gone."""
        ready = readable([calls.fileno(), self._calls.fileno()])
        told = self._calls.recv(1) if self._calls.fileno() in ready else b""
        if told == _WELL:
            return 0, self
        status = self.end()
        return (0 if told else status), None

    def end(self) -> int:
        """Its exit status. One that is ending by itself keeps its own; one that only seems to is killed."""
        os.kill(self._pid, signal.SIGKILL)
        self._calls.close()
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def _work(calls: socket.socket, fds: list[int]) -> NoReturn:
    """Answers about one file until it is odd in any way."""
    code = 1
    try:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        jail.enter(read_message(fds[0])[0]["limits"])
        while fds:
            well = _answer(*fds)
            for fd in fds:
                os.close(fd)
            os.write(calls.fileno(), _WELL if well else _ODD)
            if not well:
                break
            _, fds, _, _ = socket.recv_fds(calls, 1, 3 + MOST_OUTPUTS)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _answer(question: int, answer: int, file: int, *outputs: int) -> bool:
    """Whether all went well."""
    request, blocks = read_message(question)
    error: Exception | None = None
    with av.logging.Capture() as log:
        try:
            header, found = FUNCTIONS[request["function"]](request | blocks, file, *outputs)
        except Exception as raised:
            error = raised
    if error:
        header, found = _explain(error, [line for _, _, line in log]), {}
    write_message(answer, header, **found)
    return error is None and not log


def _explain(error: Exception, log: list[str]) -> dict[str, Any]:
    reason = str(error)
    match error:
        case NoSoundError():
            kind = "no sound"
        case RefusedError():
            kind = "refused"
        case av.FFmpegError() | MemoryError() | OSError() | ValueError():
            kind = "failed"
        case _:
            kind, reason = "broken", "".join(traceback.format_exception(error))  # nobody hears what it prints
    return {"error": kind, "reason": reason, "log": "".join(log)[-10000:]}
