"""Workers as the service sees them: processes that are told a file, waited for, killed and replaced."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipeline.detector.prediction import Prediction
from pipeline.serve.settings import TOKENS, ServeError

START_SECONDS = 300.0
"""A detector is loaded by then."""
_MOST_BYTES = 8 << 20
"""Of a line that a worker says: more than a prediction ever has."""
_prediction = TypeAdapter(Prediction)


class WorkerLostError(RuntimeError):
    """The process died, was killed for its time, or says what is no answer. The message is for whoever asked."""


def worker_command(detector: Path, max_duration_s: float) -> list[str]:
    """What starts one with the detector that lies in that folder."""
    return [sys.executable, "-m", "pipeline.serve.worker", str(detector.resolve()), str(max_duration_s)]


class Worker:
    """One process, started anew as often as need be."""

    def __init__(self, command: Sequence[str], folder: Path, *, threads: int) -> None:
        """folder: where it writes temporary files; made and removed with each process. threads: of its networks."""
        self._command, self._folder, self._threads = command, folder, threads
        self._process: asyncio.subprocess.Process | None = None

    @property
    def ready(self) -> bool:
        """Whether it can be told a file."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """Its process, if there is one."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Returns when it has loaded its detector; raises ServeError where it cannot."""
        self._folder.mkdir(mode=0o700)
        environment = {name: value for name, value in os.environ.items() if name != TOKENS}
        environment |= {"TMPDIR": str(self._folder)}
        environment.setdefault("OMP_NUM_THREADS", str(self._threads))
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            limit=_MOST_BYTES,
            start_new_session=True,  # Ctrl-C is for the service, which ends it
        )
        self._process = process
        try:
            async with asyncio.timeout(START_SECONDS):
                told = await self._hear(process)
        except (TimeoutError, WorkerLostError, ValueError) as error:
            await self.kill()
            raise ServeError(f"a worker does not start: {error or f'not after {START_SECONDS:g} s'}") from None
        except asyncio.CancelledError:
            await self.kill()
            raise
        if "ready" not in told:
            await self.kill()
            raise ServeError(f"a worker cannot load the detector: {told.get('error')}")

    async def score(
        self, file: Path, name: str, *, limit_s: float, heard: Callable[[float], None] = lambda share: None
    ) -> Prediction:
        """What it says of the file; `heard` is told the share that is done. Raises WorkerLostError; then it is dead."""
        process = self._process
        if process is None or process.stdin is None:
            raise WorkerLostError("the process was not running")
        try:
            async with asyncio.timeout(limit_s):
                process.stdin.write(json.dumps({"file": str(file), "name": name}).encode() + b"\n")
                await process.stdin.drain()
                while "share" in (told := await self._hear(process)):
                    heard(min(1.0, max(0.0, float(told["share"]))))
                return _prediction.validate_python(told["prediction"])
        except TimeoutError:
            await self.kill()
            raise WorkerLostError(f"it took longer than {limit_s:g} s, the most that is spent on a file here") from None
        except (OSError, KeyError, TypeError, ValueError, ValidationError):
            await self.kill()
            raise WorkerLostError("the process that worked on it says what makes no sense") from None
        except (WorkerLostError, asyncio.CancelledError):
            await self.kill()
            raise

    async def gone(self) -> None:
        """Returns when the process has ended."""
        if self._process:
            await self._process.wait()

    async def kill(self) -> None:
        """Ends it, whatever it does, and takes away what it wrote."""
        process, self._process = self._process, None
        if process:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    @staticmethod
    async def _hear(process: asyncio.subprocess.Process) -> dict[str, Any]:
        assert process.stdout  # noqa: S101 - it was started with one
        if line := await process.stdout.readline():
            told = json.loads(line)
            if isinstance(told, dict):
                return told
            raise WorkerLostError("the process that worked on it says what makes no sense")
        raise WorkerLostError(
            "the process that worked on it died: it needs too much memory, or something crashes on it"
        )
