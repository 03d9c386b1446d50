"""An upload on its way from the network to the disk: counted while it arrives, by no name of its own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from pipeline.serve.problems import ProblemError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD = "file"
STALL_SECONDS = 30.0
"""Nothing arrives for so long: it is given up."""
UPLOAD_SECONDS = 1800.0
"""Of a whole upload, however steadily it trickles."""
_AROUND_BYTES = 16_384
"""What a form may hold besides the file."""
_DRAIN_SECONDS = 10.0


@contextlib.asynccontextmanager
async def receive(request: Request, spool: Path, *, max_bytes: int) -> AsyncIterator[Path]:
    """The file of a multipart form, under a random name; deleted where the block fails.

    Raises ProblemError where the form is none, has not exactly one file, or one that is too large; ClientDisconnect.
    """
    path = spool / token_hex(16)
    try:
        await _receive(request, path, max_bytes)
        yield path
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ProblemError(503, "there is no room on the disk; try again later", retry_after_s=60) from error
        raise


async def drain(request: Request, most: int) -> None:
    """Reads what is still coming, as far as is decent: who is refused while sending may else never see the answer."""
    if "expect" in request.headers:  # it waits for a word before it sends: the refusal is that word
        return
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for chunk in request.stream():
                most -= len(chunk)
                if most < 0:
                    return


async def body(request: Request, *, max_bytes: int) -> bytes:
    """The whole of a small one; raises ProblemError."""
    found = bytearray()
    async for chunk in _chunks(request, max_bytes):
        found += chunk
    return bytes(found)


def too_large(max_bytes: int) -> ProblemError:
    """The problem of what is larger than allowed."""
    return ProblemError(413, f"more than {max_bytes:,} bytes, the most that is taken here")


async def _receive(request: Request, path: Path, max_bytes: int) -> None:
    _, options = parse_options_header(request.headers["content-type"])
    if not (boundary := options.get(b"boundary")):
        raise ProblemError(400, "the form's Content-Type names no boundary")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes + _AROUND_BYTES:
        raise too_large(max_bytes)
    with path.open("xb") as file:
        path.chmod(0o600)
        form = _Form(file, max_bytes)
        try:
            parser = MultipartParser(boundary, form.callbacks, max_header_count=8, max_header_size=4096)
            async with asyncio.timeout(UPLOAD_SECONDS):
                async for chunk in _chunks(request, max_bytes + _AROUND_BYTES):
                    await run_in_threadpool(parser.write, chunk)
            parser.finalize()
        except FormParserError as error:
            raise ProblemError(400, "the body is not the multipart form that its Content-Type says") from error
        except TimeoutError as error:
            raise ProblemError(408, f"the upload took longer than {UPLOAD_SECONDS:g} s") from error
    if not form.ended:
        raise ProblemError(400, "the form is cut short")
    if form.files != 1:
        raise ProblemError(422, f'the form has no field "{FIELD}": `curl -F {FIELD}=@clip.mp4 ...`')


async def _chunks(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """What arrives, held to a size and to signs of life."""
    stream, received = request.stream(), 0
    while True:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise ProblemError(408, f"nothing arrived for {STALL_SECONDS:g} s") from None
        if chunk is None:
            return
        received += len(chunk)
        if received > max_bytes:
            raise too_large(max_bytes)
        yield chunk


class _Form:
    """Writes the one file's bytes; what it is called is not even read."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self.files, self.ended = 0, False
        self._file, self._max_bytes, self._size = file, max_bytes, 0
        self._header, self._value, self._disposition = b"", b"", b""
        self.callbacks: MultipartCallbacks = {
            "on_part_begin": self._part,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._part_is_known,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _part(self) -> None:
        self._disposition = b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _part_is_known(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") != FIELD.encode():
            raise ProblemError(422, f'the form has another field than "{FIELD}"')
        self.files += 1
        if self.files > 1:
            raise ProblemError(422, "the form has several files: send each by itself")

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._size > self._max_bytes:
            raise too_large(self._max_bytes)
        self._file.write(memoryview(data)[start:end])

    def _end(self) -> None:
        self.ended = True
