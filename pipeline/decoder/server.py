"""Waits for files to read; a copy of this process reads them, under its own limits.

A copy costs some milliseconds, a new decoder tens. So a copy reads some files one after the other, but none after one
that was odd in any way: what a bad file does to its reader ends with it.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import resource
import select
import signal
import socket
import struct
import sys
import traceback
from typing import Any, NoReturn

import av
import av.logging

from pipeline.decoder.container import NoSoundError, RefusedError, list_packets
from pipeline.decoder.messages import read_message, write_message
from pipeline.decoder.pictures import read_pictures
from pipeline.decoder.sound import read_sound

REQUEST, STOP = b"r", b"k"
_WELL, _ODD = b"w", b"o"
STATUS = struct.Struct("i")
MOST_OUTPUTS = 5
_FILES_PER_COPY = 32
FUNCTIONS = {function.__name__: function for function in (list_packets, read_sound, read_pictures)}
_PR_SET_PDEATHSIG = 1


def serve(number: int) -> None:
    """Answers at the socket `number` until its other end is closed.

    A request is one byte with open files: the request's message, the answer's, the media file, and what its function
    writes to. The exit status follows: 0, or what the copy died of.
    """
    av.logging.set_level(av.logging.ERROR)
    gc.freeze()  # what is there now is shared with the copies, not looked through by each
    # Without a thread and with nothing open that matters: only so is a fork safe.
    with socket.socket(fileno=number) as calls:
        copy: _Copy | None = None
        while True:
            copy = copy or _Copy(calls)  # before the files come: it would hold them open, and hide a pipe's end
            if copy.died(calls):
                copy = None
                continue
            byte, fds, _, _ = socket.recv_fds(calls, 1, 3 + MOST_OUTPUTS)
            if byte == REQUEST:
                status, copy = copy.attend(calls, fds)
                calls.send(STATUS.pack(status))
            elif not byte:
                copy.end()
                return


class _Copy:
    """A copy of this process that reads files."""

    def __init__(self, calls: socket.socket) -> None:
        self._calls, theirs = socket.socketpair()
        self._left = _FILES_PER_COPY
        self._pid = os.fork()
        if self._pid == 0:
            calls.close()
            self._calls.close()
            _work(theirs)
        theirs.close()

    def died(self, calls: socket.socket) -> bool:
        """Whether it did so before there was something to read at `calls`."""
        ready, _, _ = select.select([calls, self._calls], [], [])
        if self._calls in ready:
            self.end()
        return self._calls in ready

    def attend(self, calls: socket.socket, fds: list[int]) -> tuple[int, _Copy | None]:
        """(exit status, who reads the next file). The copy is killed when whoever asked says so, or is gone."""
        socket.send_fds(self._calls, [REQUEST], fds)
        for fd in fds:
            os.close(fd)
        ready, _, _ = select.select([calls, self._calls], [], [])
        told = self._calls.recv(1) if self._calls in ready else b""
        self._left -= 1
        if told == _WELL and self._left:
            return 0, self
        status = self.end(kill=self._calls not in ready)
        return (0 if told else status), None

    def end(self, *, kill: bool = True) -> int:
        """Its exit status."""
        if kill:
            os.kill(self._pid, signal.SIGKILL)
        self._calls.close()  # it ends when nobody can ask any more
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def _work(calls: socket.socket) -> NoReturn:
    """Reads the files that it is sent until one was odd."""
    code = 1
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        well = True
        while well:
            byte, fds, _, _ = socket.recv_fds(calls, 1, 3 + MOST_OUTPUTS)
            if not byte:
                break
            well = _answer(*fds)
            for fd in fds:
                os.close(fd)
            calls.send(_WELL if well else _ODD)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _answer(question: int, answer: int, file: int, *outputs: int) -> bool:
    """Whether all went well."""
    request, blocks = read_message(question)
    _limit(request["limits"])
    error: Exception | None = None
    with av.logging.Capture() as log:
        try:
            header, found = FUNCTIONS[request["function"]](request | blocks, file, *outputs)
        except (RefusedError, av.FFmpegError, MemoryError, OSError, ValueError) as raised:
            error = raised
    if error:
        header, found = _explain(error, [line for _, _, line in log]), {}
    write_message(answer, header, **found)
    return error is None and not log


def _explain(error: Exception, log: list[str]) -> dict[str, Any]:
    kind = "no sound" if isinstance(error, NoSoundError) else "refused" if isinstance(error, RefusedError) else "failed"
    return {"error": kind, "reason": str(error), "log": "".join(log)[-10000:]}


def _limit(limits: dict[str, Any]) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = math.ceil(used.ru_utime + used.ru_stime) + limits["cpu_s"]
    for kind, limit in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["output_bytes"]),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hardest = resource.getrlimit(kind)
        allowed = limit if hardest == resource.RLIM_INFINITY else min(limit, hardest)
        resource.setrlimit(kind, (allowed, hardest))  # the next file may use as much again
