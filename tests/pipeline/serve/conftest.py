"""A service on a port of its own, over workers that only pretend: what a detector says is tested elsewhere."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from pipeline.detector.page import About
from pipeline.serve.app import make_app
from pipeline.serve.connections import Connection
from pipeline.serve.settings import Settings, Tokens

ABOUT = About(
    "small.bmnas",
    "0" * 64,
    3.7,
    "AUC 0.90 on other people",
    warnings=("It knows <few> people.",),
    options=("--bundle", "small.bmnas"),
)
TOKEN = "a-token-of-the-tests-0123456789"  # noqa: S105
PRETENDED = [sys.executable, str(Path(__file__).parent / "pretended_worker.py")]


@dataclass
class Live:
    """A running service and who asks it."""

    url: str
    client: httpx.Client
    spool: Path
    root: Path
    app: Any

    def send(self, content: bytes, name: str = "clip.mp4") -> httpx.Response:
        return self.client.post("/v1/score", files={"file": (name, content)})

    def result(self, content: bytes) -> dict[str, Any]:
        """The job of an upload, when it is over."""
        job = self.send(content).json()
        found: dict[str, Any] = self.client.get(f"/v1/jobs/{job['id']}", params={"wait_s": 20}).json()
        return found

    def left(self) -> list[str]:
        """What lies in the spool."""
        return sorted(str(path.relative_to(self.spool)) for path in self.spool.rglob("*") if path.is_file())


Start = Callable[..., contextlib.AbstractContextManager[Live]]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts a service with other limits."""

    @contextlib.contextmanager
    def started(**changes: Any) -> Iterator[Live]:
        folder = tmp_path_factory.mktemp("serve")
        for name in ("spool", "root"):
            (folder / name).mkdir()
        settings = Settings(folder / "spool", **{"root": folder / "root", "max_bytes": 100_000, **changes})
        app = make_app(settings, PRETENDED, ABOUT)
        server = uvicorn.Server(
            uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=2, http=Connection)
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.02)
            port = server.servers[0].sockets[0].getsockname()[1]
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, timeout=30) as client:
                yield Live(url, client, settings.spool, folder / "root", app)
        finally:
            server.should_exit = True
            thread.join(20)
        assert not [path for path in settings.spool.rglob("*") if path.is_file()]

    return started


@pytest.fixture(scope="module")
def live(start: Start) -> Iterator[Live]:
    """One worker, no tokens."""
    with start() as found:
        yield found


@pytest.fixture(scope="module")
def guarded(start: Start) -> Iterator[Live]:
    """The same with a token."""
    with start(tokens=Tokens.of([TOKEN], "test")) as found:
        yield found
