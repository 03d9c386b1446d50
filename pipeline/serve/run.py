"""Starting the service, and its end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import uvicorn

from cache_schemas.files import file_sha256
from cache_schemas.paths import path_text
from pipeline.detector.opened import open_bundle
from pipeline.detector.page import about_detector
from pipeline.serve.app import make_app
from pipeline.serve.connections import MOST, Connection
from pipeline.serve.pool import worker_command
from pipeline.serve.settings import ServeError, Settings, check_host
from pipeline.serve.spool import open_spool
from pipeline.workspace import Workspace

GRACE_SECONDS = 20
"""So long who waits for an answer may still get it when the service is told to end."""
_log = logging.getLogger("bmnas.serve")


def serve(settings: Settings, detector: Path, *, public_key: bytes | None, host: str, port: int) -> None:
    """Answers until SIGTERM or Ctrl-C. `settings.spool` is the folder that the spool's own is made in.

    detector: a bundle, or the folder of a finished run. Raises ServeError, BundleError or RunFileError where it cannot
    start.
    """
    check_host(host, settings.tokens)
    if settings.root is not None and not settings.root.is_dir():
        raise ServeError(f"--root {settings.root}: there is no such folder")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)  # uvicorn has its own while it runs, and raises it again behind
    with ExitStack() as stack:
        settings = replace(settings, spool=stack.enter_context(open_spool(settings.spool)))
        stack.enter_context(_temporary_files(settings.spool))
        bundled = not detector.is_dir()
        workspace = (
            stack.enter_context(open_bundle(detector, public_key=public_key)) if bundled else Workspace(detector)
        )
        about = about_detector(
            workspace,
            name=path_text(detector.name),
            digest=file_sha256(detector) if bundled else None,
            options=("--bundle" if bundled else "--work", detector.name),
        )
        app = make_app(settings, worker_command(workspace.root, settings.max_duration_s), about)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                access_log=False,  # addresses name jobs
                server_header=False,
                proxy_headers=False,
                http=Connection,
                limit_concurrency=MOST,
                timeout_graceful_shutdown=GRACE_SECONDS,
                lifespan="on",
            )
        )
        if os.geteuid() == 0:
            _log.warning("the service runs as root; it needs no rights: run it as an ordinary user")
        try:
            server.run()
        except SystemExit:
            if not server.started:
                raise ServeError("the service did not start; what is above says why") from None
            raise


def _end(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


@contextmanager
def _temporary_files(folder: Path) -> Iterator[None]:
    """Inside, temporary files are made there, so that none outlives a service that was killed."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
