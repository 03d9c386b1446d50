"""The whole service as an ASGI app, and what stands around every answer: headers, hosts, counts."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline import figures
from pipeline.detector.page import About, policy
from pipeline.serve.api import Service, guarded, may_ask, open_to_all
from pipeline.serve.jobs import Jobs
from pipeline.serve.metrics import Metrics
from pipeline.serve.problems import Problem, answer, described, tell_problems
from pipeline.serve.settings import Settings, is_loopback
from pipeline.serve.shapes import PathAsked

_PAGE = Path(__file__).parent / "page"
_PALETTE = Path(str(figures.__file__)).parent / "palette.css"
"""The report's"""
_ANSWERS_STYLE = re.findall(r"style-src ([^;]+)", policy())[0]
"""The digest of the answer's page's style: that page is shown in a frame, which is held to the policies of both."""
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; script-src 'self'; style-src 'self' {_ANSWERS_STYLE}; "
    "img-src 'self' data:; media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


def make_app(settings: Settings, command: Sequence[str], about: About) -> FastAPI:
    """The service; its workers live as long as the app does.

    command: starts a worker. about: what is said of the detector.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Jobs(settings, command, metrics) as jobs:
            app.state.service = Service(settings, jobs, metrics, about)
            yield

    app = FastAPI(
        title="bmnas",
        summary="How strong the evidence is that a clip is fake, or why nothing can be said.",
        version=importlib.metadata.version("bmnas"),
        docs_url=None,  # FastAPI's pages load their scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    tell_problems(app)
    app.include_router(open_to_all)
    if settings.tokens:
        app.include_router(guarded, dependencies=[Depends(may_ask)], responses=described(401))
    else:
        app.include_router(guarded)
    _describe(app)

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(_PAGE / "index.html")

    @app.get("/page/palette.css", include_in_schema=False)
    async def palette() -> FileResponse:
        return FileResponse(_PALETTE)

    app.mount("/page", StaticFiles(directory=_PAGE))
    app.add_middleware(_Around, metrics=metrics, only_here=not settings.tokens)
    return app


def _describe(app: FastAPI) -> None:
    """Puts the schemas into OpenAPI that no route names by itself."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            schemas = made()["components"]["schemas"]
            for model in (PathAsked, Problem):
                schemas[model.__name__] = model.model_json_schema()
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
        return made()

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's manual does it


class _Around:
    """Refuses whom a browser sends from another site, sets the headers, counts."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, only_here: bool) -> None:
        """only_here: this machine alone may ask, as localhost: another name that leads here is a trick."""
        self._app, self._metrics, self._only_here = app, metrics, only_here

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, _without_traceback(send))
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    found.setdefault(name, value)  # the answer's page has a policy of its own
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._metrics.requests.labels(route, method, message["status"]).inc()
            await send(message)

        headers = Headers(scope=scope)
        if why := _why_not(headers, only_here=self._only_here):
            await answer(403, why)(scope, receive, with_headers)
        else:
            await self._app(scope, receive, with_headers)


def _without_traceback(send: Send) -> Send:
    """Why the service does not start, without where in its code that was noticed."""

    async def sent(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            message = {**message, "message": message["message"].strip().rpartition("\n")[2]}
        await send(message)

    return sent


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _why_not(headers: Headers, *, only_here: bool) -> str:
    """Why a request is refused before anything looks at it; "" where it is not."""
    host = _split(f"//{headers.get('host', '')}")
    if only_here and not is_loopback(host[0]):
        return "without tokens this service answers as localhost only"
    origin = headers.get("origin")
    if origin is not None and _split(origin) != host:
        return "other sites may not ask this service"
    return ""


def _split(address: str) -> tuple[str, int | None]:
    """(host, port) of an address; ("", None) where it is none."""
    try:
        parts = urlsplit(address)
        return parts.hostname or "", parts.port
    except ValueError:
        return "", None
