"""What may be opened at all: regular files under the data root."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from io import FileIO
from pathlib import Path, PosixPath

from pipeline.decoder.messages import UNREADABLE

_OUTSIDE = "the path leads outside the data root"
_libc = ctypes.CDLL(None, use_errno=True)
_OPENAT2, _AT_FDCWD, _RESOLVE_NO_SYMLINKS = 437, -100, 0x04
_LFS_POINTER = b"version https://git-lfs.github.com/spec"


class MediaError(Exception):
    """A file cannot be used; the message says why in words for the quarantine list.

    As it stands it is a verdict on the file's content: the same bytes get it again, so that it may be kept.
    """


class PassingError(MediaError):
    """Something else than the file's bytes is in the way: a disk, a limit that others fill, the clock, a path.

    It may be otherwise next time, so that it is never kept.
    """


class NoAudioError(MediaError):
    """The file has a picture but no (audible) sound track."""


class Inside(PosixPath):
    """A path under the data root, without links: those in it lead nowhere else but here, and one put there later is
    not followed.
    """


def inside(root: Path, relative: str) -> Path:
    """The file `relative` under `root`; raises PassingError when the path (or a link in it) leads outside."""
    base = root.resolve()
    path = Inside((base / relative).resolve())
    if not path.is_relative_to(base):
        raise PassingError(_OUTSIDE)
    return path


def anywhere(path: Path) -> Path:
    """The file that this user named, wherever it is; one that was found `inside` a folder already stays that one: a
    link that was put into its place since then is not followed.
    """
    return path if isinstance(path, Inside) else inside(Path("/"), str(path.absolute()))


def open_regular(path: Path) -> FileIO:
    """The file at `path`, open; PassingError when there is no readable, non-empty, regular file."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not make us wait for a writer
    try:
        fd = _open_without_links(path, flags) if isinstance(path, Inside) else os.open(path, flags)
    except FileNotFoundError:
        raise PassingError("the file does not exist") from None
    except PermissionError:
        raise PassingError("the file cannot be read (permission denied)") from None
    except OSError as error:  # a socket, a device that is not there, a loop of links
        if isinstance(path, Inside) and error.errno == errno.ELOOP:
            raise PassingError(_OUTSIDE) from None
        raise PassingError(f"the file cannot be opened ({error.strerror})") from None
    found = os.fstat(fd)
    reason = ""
    if stat.S_ISDIR(found.st_mode):
        reason = "a directory, not a file"
    elif not stat.S_ISREG(found.st_mode):
        reason = "a device or a pipe, not a file"
    elif found.st_size == 0:
        reason = "the file is empty (0 bytes)"
    if reason:
        os.close(fd)
        raise PassingError(reason)
    return os.fdopen(fd, "rb", buffering=0)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _open_without_links(path: Path, flags: int) -> int:
    """As os.open; ELOOP where any part of the path is a link, if the kernel can tell (Linux 5.6), else as ever."""
    how = _OpenHow(flags, 0, _RESOLVE_NO_SYMLINKS)
    name = ctypes.c_char_p(os.fsencode(path))
    fd: int = _libc.syscall(_OPENAT2, _AT_FDCWD, name, ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
    if fd >= 0:
        return fd
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EPERM):  # an old kernel, another system, a sandbox that does not know the call
        return os.open(path, flags)
    raise OSError(number, os.strerror(number))


def refuse_stand_ins(fd: int) -> None:
    """Raises PassingError where the bytes of the open file only stand for one that is somewhere else."""
    try:
        head = os.pread(fd, 512, 0)
    except OSError as error:
        raise PassingError(f"{UNREADABLE} ({error.strerror})") from None
    if head.startswith(_LFS_POINTER):
        raise PassingError("a Git LFS pointer in place of the file: run `git lfs pull` where the data set was cloned")
    if not any(head) and _only_zeros(fd):
        raise PassingError("nothing but zeros: a copy or a download that was not finished")


def _only_zeros(fd: int) -> bool:
    at = 0
    while piece := os.pread(fd, 1 << 20, at):
        if piece.strip(b"\0"):
            return False
        at += len(piece)
    return True


def check_file(path: Path) -> int:
    """Its size in bytes; raises PassingError when there is no readable, non-empty, regular file at `path`."""
    with open_regular(path) as file:
        return os.fstat(file.fileno()).st_size
