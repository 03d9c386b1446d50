"""ffmpeg as a child that cannot escape: what it may open, how much it may use, and that it dies with its parent."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import ffmpeg
import imageio_ffmpeg

from pipeline.media.files import MediaError, NoAudioError, check_file

MAX_SECONDS = 3600.0
"""Longer clips are read to here."""
MAX_PIXELS = 8192 * 4352
MAX_STREAMS = 32
MAX_OUTPUT_BYTES = 2 << 30
MAX_MEMORY_BYTES = 4 << 30
"""Of ffmpeg's address space. The largest picture, H.264's 16 references to it and a scaled copy fit into it."""
WALL_SECONDS = 300.0
"""A process that runs longer, or that gives nothing for so long, is killed; so is one that uses so much of a core."""

# Containers that hold their streams themselves. Playlists (hls, concat, dash, sdp) open other files and are left out.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,h264,hevc,m4v,flv,asf,ogg,mxf,nut,wav,mp3,aac,flac"
)


@functools.cache
def ffmpeg_exe() -> str:
    """The static binary that imageio-ffmpeg ships, which starts several times faster than a dynamically linked one."""
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:  # none for this platform: it has found none on the system either, or says how to get one
        found = shutil.which("ffmpeg")
        if found is None:
            raise
        return found


def media_input(path: Path, *, seconds: float = MAX_SECONDS, **options: Any) -> Any:
    """The ffmpeg-python node of a file's first `seconds`, with what it may open and how large it may be."""
    check_file(path)
    return ffmpeg.input(
        _NAME + os.fsencode(path.absolute()).hex(),  # ffmpeg-python knows no names that are not UTF-8
        protocol_whitelist="file,pipe",
        format_whitelist=_CONTAINERS,
        max_streams=MAX_STREAMS + 1,  # some formats only leave out what is beyond: so that it can be seen
        max_pixels=MAX_PIXELS,
        t=min(seconds, MAX_SECONDS),
        threads=1,
        **options,
    )


_NAME = "name-in-hex:"


def _with_name(word: str) -> str:
    # "file:" and an absolute path keep ffmpeg from reading a protocol, an option or a pattern into a file's name.
    return f"file:{os.fsdecode(bytes.fromhex(word.removeprefix(_NAME)))}" if word.startswith(_NAME) else word


class Process:
    """A running ffmpeg: its output files by number, its log, and its end."""

    def __init__(self, outputs: Sequence[Any], pass_fds: Sequence[int]) -> None:
        command = [*_guard(), ffmpeg_exe(), *_GLOBAL_OPTIONS]
        command += [_with_name(word) for word in ffmpeg.get_args(ffmpeg.merge_outputs(*outputs))]
        self._log = memory_file()
        self._ended, held = os.pipe()  # at its end when the child is: to wait for it without looking again and again
        self.popen = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            pass_fds=[*pass_fds, held],
            start_new_session=True,
        )
        os.close(held)
        _limit(self.popen.pid)

    def wait(self) -> int:
        """The exit status; raises MediaError when it takes too long."""
        ready, _, _ = select.select([self._ended], [], [], WALL_SECONDS)
        if not ready:
            raise too_long()
        return self.popen.wait()

    def log(self) -> str:
        """What ffmpeg said so far."""
        return content(self._log).decode("utf-8", "replace")

    def kill(self) -> None:
        """Ends it and whatever it started; harmless when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        os.close(self._ended)
        self._log.close()

    def error(self) -> MediaError:
        """Why it ended without a result."""
        if self.popen.returncode == -signal.SIGXFSZ:
            return MediaError(f"decoding gives more than {MAX_OUTPUT_BYTES >> 20} MiB")
        if self.popen.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            return too_long()
        return _explain(self.log())


def run(*outputs: Any, pass_fds: Sequence[int]) -> str:
    """ffmpeg's log, after it has written `outputs` (nodes of ffmpeg-python) to the files behind `pass_fds`.

    Raises MediaError only where it fails before it opens its outputs or is killed: what it wrote until some later
    failure is what there is of a damaged file.
    """
    process = Process(outputs, pass_fds)
    try:
        code = process.wait()
        log = process.log()
        if code < 0 or (code > 0 and "\nOutput #0" not in log):
            raise process.error()
        return log
    finally:
        process.kill()


def too_long() -> MediaError:
    """The reason of a clip that was given up."""
    return MediaError(f"decoding took longer than {WALL_SECONDS:g} s")


def memory_file() -> IO[bytes]:
    """A file without a name that ffmpeg can write to: in memory, so that a full disk is no reason to fail."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("media"), "w+b")
    return tempfile.TemporaryFile()


def content(file: IO[bytes]) -> bytes:
    """All that was written to it, by whomever."""
    file.seek(0)
    return file.read()


@contextmanager
def memory_files(count: int) -> Iterator[list[IO[bytes]]]:
    """So many memory files, closed at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(memory_file()) for _ in range(count)]


_GLOBAL_OPTIONS = (
    *("-nostdin", "-hide_banner", "-nostats"),
    *("-copyts", "-max_alloc", str(1 << 30), "-filter_threads", "1"),
)


@functools.cache
def _guard() -> tuple[str, ...]:
    """The command that has the kernel kill ffmpeg when the thread that waits for it dies, by SIGKILL too.

    A Python function between fork and exec could do it, but not safely beside Dask's threads. Where there is no
    `setpriv` that can, an orphan lives until its processor time is used up (`_limit`).
    """
    setpriv = shutil.which("setpriv")
    command = (setpriv or "", "--pdeathsig", "KILL", "--")
    if setpriv is None or subprocess.run([*command, "true"], check=False, capture_output=True).returncode:  # noqa: S603
        return ()
    return command


def _limit(pid: int) -> None:
    if sys.platform != "linux":  # elsewhere ffmpeg's own limits and the wall time must do
        return
    seconds = int(WALL_SECONDS) + 1
    for kind, limit in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, MAX_OUTPUT_BYTES),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hardest = resource.getrlimit(kind)
        allowed = limit if hardest == resource.RLIM_INFINITY else min(limit, hardest)
        with contextlib.suppress(ProcessLookupError):  # it has ended
            resource.prlimit(pid, kind, (allowed, allowed))


_REASONS = (
    ("moov atom not found", "cut short, or not a media file: it has no index (moov atom not found)"),
    ("Format not on whitelist", "not a container that is accepted (playlists never are)"),
    ("not on whitelist", "refers to another file or address, which is refused"),
    ("max_streams", f"the file has more than {MAX_STREAMS} streams"),
    ("does not contain any stream", "the file holds no stream"),
    ("Invalid data found", "not a media file, or corrupt beyond reading"),
)


def _explain(log: str) -> MediaError:
    if "matches no streams" in log:
        if "0:V:0" in log:
            return MediaError("no picture: the file has no video stream")
        return NoAudioError("no sound track")
    for sign, reason in _REASONS:
        if sign in log:
            return MediaError(reason)
    lines = [line for line in log.splitlines() if line.strip()]
    return MediaError(f"ffmpeg could not read it: {lines[-1][:200] if lines else 'no message'}")
