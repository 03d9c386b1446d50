"""What a copy of the decoder may still do: compute, and read and write the files that it was handed.

It is meant for a codec that a file has taken over. The list of system calls is the wall: no name can be opened, no
socket made, no process started or signalled, no limit raised. Namespaces, where the user may have them, stand behind.
docs/decisions/007 says what else was weighed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import platform
import resource
import signal
import struct
import sys
import tempfile
from typing import Any

import av

from pipeline.decoder.codecs import CODECS

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column of the tables below, and what the kernel calls the machine."""
_ALLOWED = {
    "read": (0, 63), "readv": (19, 65), "pread64": (17, 67), "lseek": (8, 62), "recvmsg": (47, 212),
    "write": (1, 64), "writev": (20, 66), "close": (3, 57), "dup": (32, 23), "fstat": (5, 80),
    "newfstatat": (262, 79),  # by which newer C libraries ask for the size of an open file
    "munmap": (11, 215), "mremap": (25, 216), "brk": (12, 214),
    "futex": (202, 98), "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "uname": (63, 160),
    "getpid": (39, 172), "gettid": (186, 178), "getrusage": (98, 165), "getrandom": (318, 278), "sysinfo": (99, 179),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169), "restart_syscall": (219, 128),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
_REFUSED = {
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "readlink": (89, None), "readlinkat": (267, 78),
    "stat": (4, None), "lstat": (6, None), "statx": (332, 291), "access": (21, None), "faccessat": (269, 48),
    "faccessat2": (439, 439), "getcwd": (79, 17), "ioctl": (16, 29), "socket": (41, 198), "fork": (57, None),
    "vfork": (58, None), "clone": (56, 220), "clone3": (435, 435),
}  # fmt: skip
"""What libraries try and can do without. Any other call is the process's end."""
_FCNTL, _PRCTL, _MMAP, _MPROTECT, _PRLIMIT = (72, 25), (157, 167), (9, 222), (10, 226), (302, 261)
_MADVISE, _SECCOMP = (28, 233), (317, 277)
_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC = 0, 1, 2, 3, 1030
_PR_SET_PDEATHSIG, _PR_GET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 1, 21, 38, 39
_PROT_EXEC = 4
_ADVICE = (4, 8, 14)
"""What allocators say: not needed, free, huge pages. Root may also say that the memory is broken; it is gone then."""
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4
_libc = ctypes.CDLL(None, use_errno=True)
_notes = {"seccomp": "", "namespaces": ""}
"""Why they are not in force; empty where they are."""


def separate() -> None:
    """Leaves network and files behind, where the user may: for this process and all that it starts."""
    if sys.platform != "linux":
        _notes["namespaces"] = f"{sys.platform} has none"
        return
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        _notes["namespaces"] = f"not allowed here: {os.strerror(ctypes.get_errno())}"
        return
    with contextlib.suppress(OSError):  # the network is gone all the same
        with tempfile.TemporaryDirectory(prefix="decoder-") as empty:
            os.chdir(empty)
        os.chroot(".")  # it is gone: nothing can be made in it


def enter(limits: dict[str, Any]) -> None:
    """From here on this process can do only what the module says, and use only so much; it ends with its parent."""
    os.dup2(1, 2)  # to nowhere: what it says might steer a terminal
    _limit(limits)
    if sys.platform != "linux":
        return
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if _notes["seccomp"] or (why := why_unfiltered()):
        _notes["seccomp"] = _notes["seccomp"] or why
        return
    column, _ = _MACHINES[platform.machine()]
    code = _filter()
    program = ctypes.create_string_buffer(code)
    head = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(program)))
    if _libc.syscall(ctypes.c_long(_SECCOMP[column]), _SET_MODE_FILTER, _SPEC_ALLOW, head):
        _notes["seccomp"] = f"the kernel refuses it: {os.strerror(ctypes.get_errno())}"


@functools.cache
def why_unfiltered() -> str:
    """Why this machine cannot hold a process to a list of system calls; empty where it can."""
    if sys.platform != "linux":
        return f"{sys.platform} has no seccomp"
    if platform.machine() not in _MACHINES or sys.maxsize < 2**32:
        return f"no list of system calls for {platform.machine()}: there is one for {' and '.join(_MACHINES)}"
    column, _ = _MACHINES[platform.machine()]
    _libc.syscall(ctypes.c_long(_SECCOMP[column]), _SET_MODE_FILTER, _SPEC_ALLOW, None)  # fails, but how?
    reason = ctypes.get_errno()
    return "" if reason == errno.EFAULT else f"the kernel has no seccomp for us: {os.strerror(reason)}"


def _limit(limits: dict[str, Any]) -> None:
    for kind, limit, spare in (
        (resource.RLIMIT_AS, limits["memory_bytes"], 0),
        (resource.RLIMIT_FSIZE, limits["output_bytes"], 0),
        (resource.RLIMIT_CPU, limits["cpu_s"], 1),  # so that it dies of SIGXCPU, which says why
        (resource.RLIMIT_NOFILE, 64, 0),
        (resource.RLIMIT_NPROC, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        _, hardest = resource.getrlimit(kind)
        most = limit + spare if hardest == resource.RLIM_INFINITY else min(limit + spare, hardest)
        with contextlib.suppress(OSError, ValueError):  # macOS takes no limit of the address space
            resource.setrlimit(kind, (min(limit, most), most))


_LOAD, _EQUAL, _MASKED, _RETURN = 0x20, 0x15, 0x45, 0x06
_KILL, _ERROR, _ALLOW = 0x80000000, 0x00050000 | errno.EPERM, 0x7FFF0000


@functools.cache
def _filter() -> bytes:
    """The list as a program for the kernel (classic BPF): it reads the call's number and its arguments."""
    column, machine = _MACHINES[platform.machine()]
    program = [_step(_LOAD, 4), _step(_EQUAL, machine, 1, 0), _step(_RETURN, _KILL), _step(_LOAD, 0)]

    def add(call: tuple[int | None, int | None], *then: bytes) -> None:
        if call[column] is not None:
            program.extend([_step(_EQUAL, call[column], 0, len(then)), *then])

    for call in _ALLOWED.values():
        add(call, _step(_RETURN, _ALLOW))
    add(_FCNTL, *_one_of(1, (_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC)))
    add(_PRCTL, *_one_of(0, (_PR_GET_SECCOMP, _PR_GET_NO_NEW_PRIVS)))
    add(_MADVISE, *_one_of(2, _ADVICE))
    for call in (_MMAP, _MPROTECT):
        add(call, _argument(2), _step(_MASKED, _PROT_EXEC, 1, 0), _step(_RETURN, _ALLOW), _step(_RETURN, _ERROR))
    asks = [_argument(0), _step(_EQUAL, 0, 0, 5), _argument(2), _step(_EQUAL, 0, 0, 3), _argument(2, upper=True)]
    add(_PRLIMIT, *asks, _step(_EQUAL, 0, 0, 1), _step(_RETURN, _ALLOW), _step(_RETURN, _ERROR))
    for refused in _REFUSED.values():
        add(refused, _step(_RETURN, _ERROR))
    return b"".join([*program, _step(_RETURN, _KILL)])


def _step(code: int, value: int | None, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _argument(number: int, *, upper: bool = False) -> bytes:
    """Loads 32 bits of an argument; both machines are little-endian."""
    return _step(_LOAD, 16 + 8 * number + 4 * upper)


def _one_of(argument: int, values: tuple[int, ...]) -> list[bytes]:
    tests = [_step(_EQUAL, value, len(values) - i, 0) for i, value in enumerate(values)]
    return [_argument(argument), *tests, _step(_RETURN, _ERROR), _step(_RETURN, _ALLOW)]


def report_jail(_: dict[str, Any], fd: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is in force here, as asked of the kernel; the file `fd` is not read."""
    kinds = {
        "memory_bytes": resource.RLIMIT_AS,
        "output_bytes": resource.RLIMIT_FSIZE,
        "cpu_s": resource.RLIMIT_CPU,
        "files": resource.RLIMIT_NOFILE,
        "processes": resource.RLIMIT_NPROC,
    }
    linux = sys.platform == "linux"
    return {
        "filtered": linux and _libc.prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) == 2,
        "no_new_privs": linux and _libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1,
        "notes": _notes,
        "limits": {name: resource.getrlimit(kind)[1] for name, kind in kinds.items()},
        "ffmpeg": av.ffmpeg_version_info,
        "libraries": {name: ".".join(map(str, version)) for name, version in av.library_versions.items()},
        "codecs": sorted(set(CODECS) & av.codecs_available),
    }, {}
