"""A decoder with a codec that a file has taken over: it serves as `pipeline.decoder.server` does, and can attack.

`tests.pipeline.decoder.unwalled` is the same without the wall, so that a test can tell what the wall is worth.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import importlib
import mmap
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.decoder import server

SERVER = os.getpid()
libc = ctypes.CDLL(None, use_errno=True)
_GIVEN = dict[str, Any]
HELD: list[int] = []


def _call(*arguments: object) -> int:
    found = int(libc.syscall(*arguments))
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found


def _c_open(name: bytes) -> bytes:
    fd = libc.open(name, os.O_RDONLY)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "open")
    return os.read(fd, 10)


def read_secret(given: _GIVEN) -> None:
    _c_open(os.fsencode(given["secret"]))


def read_own_environment(_: _GIVEN) -> None:
    _c_open(b"/proc/self/environ")


def read_memory_of_the_server(_: _GIVEN) -> None:
    fd = os.open(f"/proc/{SERVER}/mem", os.O_RDWR)
    os.close(fd)


def read_memory_by_call(_: _GIVEN) -> None:
    here = ctypes.create_string_buffer(8)
    vector = struct.pack("PN", ctypes.addressof(here), 8)
    if libc.process_vm_readv(os.getpid(), vector, 1, vector, 1, 0) < 0:
        raise OSError(ctypes.get_errno(), "process_vm_readv")


def write_a_file(given: _GIVEN) -> None:
    os.open(given["folder"] + "/written", os.O_WRONLY | os.O_CREAT)


def delete_a_file(given: _GIVEN) -> None:
    Path(given["folder"], "victim").unlink()


def list_a_folder(given: _GIVEN) -> None:
    list(Path(given["folder"]).iterdir())


def change_folder(_: _GIVEN) -> None:
    os.chdir("/")


def change_root(_: _GIVEN) -> None:
    os.chroot("/")


def mount(_: _GIVEN) -> None:
    if libc.mount(b"none", b"/", None, 0x44000, None):  # MS_REC | MS_PRIVATE
        raise OSError(ctypes.get_errno(), "mount")


def connect_by_tcp(given: _GIVEN) -> None:
    with socket.socket() as end:
        end.connect(("127.0.0.1", given["port"]))


def connect_to_a_unix_socket(given: _GIVEN) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(given["folder"] + "/socket")


def make_a_pair_of_sockets(_: _GIVEN) -> None:
    socket.socketpair()


def send_a_file_away(given: _GIVEN) -> None:
    # The only socket there is: the one to the server.
    rights = array.array("i", [given["file"]])
    with socket.socket(fileno=given["calls"]) as calls:
        calls.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def run_a_program(_: _GIVEN) -> None:
    os.execv("/bin/true", ["true"])  # noqa: S606


def fork(_: _GIVEN) -> None:
    if os.fork() == 0:
        os._exit(0)


def start_a_thread(_: _GIVEN) -> None:
    thread, work = ctypes.c_void_p(), ctypes.cast(libc.getpid, ctypes.c_void_p)
    if number := libc.pthread_create(ctypes.byref(thread), None, work, None):
        raise OSError(number, "pthread_create")
    libc.pthread_join(thread, None)


def signal_the_server(_: _GIVEN) -> None:
    os.kill(SERVER, 0)


def signal_the_client(given: _GIVEN) -> None:
    os.kill(given["client"], 0)


def signal_by_a_descriptor(given: _GIVEN) -> None:
    fcntl.fcntl(given["file"], fcntl.F_SETOWN, SERVER)


def trace_the_server(_: _GIVEN) -> None:
    if libc.ptrace(16, SERVER, None, None) < 0:  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), "ptrace")
    libc.ptrace(17, SERVER, None, None)


def _set_limit(cpu_s: int) -> None:
    if libc.setrlimit(resource.RLIMIT_CPU, struct.pack("NN", cpu_s, cpu_s)):  # glibc calls prlimit64
        raise OSError(ctypes.get_errno(), "setrlimit")


def raise_a_limit(_: _GIVEN) -> None:
    _set_limit(9999)


def lower_a_limit(_: _GIVEN) -> None:
    _set_limit(resource.getrlimit(resource.RLIMIT_CPU)[1] - 1)  # anybody may, so that only the wall refuses it


def raise_a_limit_of_the_server(_: _GIVEN) -> None:
    resource.prlimit(SERVER, resource.RLIMIT_NOFILE, (512, 512))


def make_code(_: _GIVEN) -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def make_data_code(_: _GIVEN) -> None:
    page = mmap.mmap(-1, 4096)
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    if libc.mprotect(ctypes.c_void_p(start), 4096, 5):
        raise OSError(ctypes.get_errno(), "mprotect")


def make_a_memory_file(_: _GIVEN) -> None:
    os.memfd_create("hidden")


def write_beyond_the_limit(given: _GIVEN) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit == resource.RLIM_INFINITY:
        return
    os.lseek(given["answer"], limit, os.SEEK_SET)
    os.write(given["answer"], b"x")


def grow_the_answer(given: _GIVEN) -> None:
    os.ftruncate(given["answer"], 1 << 20)


def change_the_question(given: _GIVEN) -> None:
    os.lseek(given["question"], 0, os.SEEK_SET)
    os.write(given["question"], b"x")


def seal_the_answer(given: _GIVEN) -> None:
    fcntl.fcntl(given["answer"], fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)


def shrink_an_earlier_answer(given: _GIVEN) -> None:
    os.ftruncate(HELD[0] if HELD else given["answer"], 0)  # whoever has mapped it would die


def write_to_the_terminal(_: _GIVEN) -> None:
    # Not the filter's doing: what it says is sent to nowhere before anything is read.
    if os.fstat(2).st_rdev == os.fstat(1).st_rdev:
        raise OSError(1, "it goes where the output goes: nowhere")


def set_a_timer_for_later(_: _GIVEN) -> None:
    signal.setitimer(signal.ITIMER_REAL, 100)


def become_a_user(_: _GIVEN) -> None:
    os.setgroups([])


def load_a_module(_: _GIVEN) -> None:
    try:
        importlib.import_module("colorsys")
    except ImportError:  # importlib keeps the kernel's answer to itself
        _c_open(os.fsencode(Path(os.__file__).with_name("colorsys.py")))


def advise_the_kernel(_: _GIVEN) -> None:
    # Harmless, as allocators' advice is; but root may call memory broken by it, and it is gone for the machine.
    mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).madvise(18)  # MADV_WIPEONFORK


def call_by_the_old_number(_: _GIVEN) -> None:
    _call(0x40000000 + 39)  # x32's getpid, on x86-64


def use_a_ring(_: _GIVEN) -> None:
    parameters = ctypes.create_string_buffer(120)
    os.close(_call(425, 1, parameters))  # io_uring_setup: other calls, past any list


ATTACKS: dict[str, Callable[[_GIVEN], None]] = {
    f.__name__: f
    for f in (
        read_secret, read_own_environment, read_memory_of_the_server, read_memory_by_call, write_a_file, delete_a_file,
        list_a_folder, change_folder, change_root, mount, connect_by_tcp, connect_to_a_unix_socket,
        make_a_pair_of_sockets, send_a_file_away, run_a_program, fork, start_a_thread, signal_the_server,
        signal_the_client, signal_by_a_descriptor, trace_the_server, raise_a_limit, lower_a_limit,
        raise_a_limit_of_the_server, advise_the_kernel,
        make_code, make_data_code, make_a_memory_file, write_beyond_the_limit, grow_the_answer, change_the_question,
        seal_the_answer, write_to_the_terminal, set_a_timer_for_later, become_a_user, load_a_module,
        shrink_an_earlier_answer, call_by_the_old_number, use_a_ring,
    )
}  # fmt: skip


def attack(request: dict[str, Any], fd: int, *_: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """{"came": "done"}, or what the kernel said."""
    # The answer is open just before the media file, the question before that; the socket was made before them all.
    given = {**request, "file": fd, "answer": fd - 1, "question": fd - 2}
    given["calls"] = next(n for n in range(3, 64) if _is_socket(n))
    try:
        ATTACKS[request["attack"]](given)
    except OSError as error:
        return {"came": f"refused: {error}"}, {}
    return {"came": "done"}, {}


def _is_socket(fd: int) -> bool:
    try:
        return os.fstat(fd).st_mode & 0o170000 == 0o140000
    except OSError:
        return False


def environment(_: dict[str, Any], fd: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What can be seen without a call to the kernel: the variables, as Python and as C know them; open files."""
    there = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
    names, i = [], 0
    while there and there[i]:
        names.append(there[i].decode())
        i += 1
    opened = [n for n in range(64) if n != fd and _is_open(n)]
    return {"python": dict(os.environ), "c": names, "open": opened}, {}


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def nonsense(request: dict[str, Any], fd: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes the answer itself, and leaves."""
    os.write(fd - 1, bytes(request["bytes"]))
    os._exit(0)


def forge(request: dict[str, Any], _: int, *outputs: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """As `read_pictures`, but the numbers are `numbers`; the last `missing` of the black pictures are not written."""
    numbers = request["numbers"]
    for i, (width, height, *_) in enumerate(request["sizes"]):
        os.write(outputs[2 * i], struct.pack(f"<{len(numbers)}q", *numbers))
        os.write(outputs[2 * i + 1], bytes((len(numbers) - request["missing"]) * width * height * 3))
    return {}, {}


def fail(_: dict[str, Any], fd: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A fault of our own."""
    raise KeyError("a fault of ours")


def find_no_room(_: dict[str, Any], fd: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the kernel says where memory, or a disk that stands in for it, is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def which(_: dict[str, Any], fd: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Which copy reads; it holds on to its answer."""
    HELD.append(os.dup(fd - 1))
    return {"pid": os.getpid()}, {"block": bytes(100)}


for function in (attack, environment, nonsense, forge, fail, find_no_room, which):
    server.FUNCTIONS[function.__name__] = function
serve = server.serve
