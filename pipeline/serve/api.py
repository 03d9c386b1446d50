"""The service's addresses."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse

from pipeline import media
from pipeline.detector.page import About, Shown, page, policy
from pipeline.serve.jobs import Job, Jobs
from pipeline.serve.metrics import Metrics
from pipeline.serve.problems import ProblemError, described
from pipeline.serve.settings import Settings
from pipeline.serve.shapes import FORM, DetectorShown, Health, JobShown, Limits, PathAsked
from pipeline.serve.upload import body, drain, receive

UPLOAD_NAME = "upload"
_UNNAMED = "A video scored by bmnas"
"""What an upload is called on its page, until who knows its name puts that there."""
_GONE = "No pictures and no sound of the clip are shown: the service keeps neither."
MOST_WAIT_S = 60.0
_MOST_JSON = 65_536
_BUSY_S = 5
"""After so many seconds, who was refused for want of room may try again."""


@dataclass(frozen=True)
class Service:
    """What the addresses answer from."""

    settings: Settings
    jobs: Jobs
    metrics: Metrics
    about: About


def service_of(request: Request) -> Service:
    """That of the app which was asked."""
    found: Service = request.app.state.service
    return found


Here = Annotated[Service, Depends(service_of)]
_bearer = HTTPBearer(auto_error=False, description="One of the service's tokens.")


def may_ask(here: Here, given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]) -> None:
    """Raises ProblemError for who knows no token."""
    if given is None or not here.settings.tokens.know(given.credentials):
        raise ProblemError(401, "give one of the service's tokens: `Authorization: Bearer TOKEN`")


def job_of(here: Here, job_id: str) -> Job:
    """The job of that name; raises ProblemError."""
    if job := here.jobs.find(job_id):
        return job
    raise ProblemError(404, f"no such job; results are kept for {here.settings.keep_s:g} s")


Found = Annotated[Job, Depends(job_of)]
open_to_all = APIRouter()
guarded = APIRouter()


@guarded.post(
    "/v1/score",
    status_code=202,
    response_model=JobShown,
    openapi_extra={"requestBody": {"required": True, "content": FORM}},
    responses={
        202: {"description": "It waits its turn", "headers": {"Location": {"schema": {"type": "string"}}}},
        **described(400, 404, 408, 413, 415, 422, 503),
    },
)
async def score(request: Request, response: Response, here: Here) -> JobShown:
    """Ask for a clip to be scored: send it as the field `file` of a form, or name one that the service's machine has.

    The answer names a job; ask for it until its `state` is `done` or `failed`. Where too many clips wait: 503.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    limit = here.settings.max_bytes
    try:
        with contextlib.ExitStack() as held:
            try:
                take = held.enter_context(here.jobs.place())
            except asyncio.QueueFull:
                here.metrics.refused.inc()
                raise ProblemError(503, "too many clips wait already; try again later", retry_after_s=_BUSY_S) from None
            if kind == "multipart/form-data":
                async with receive(request, here.settings.spool, max_bytes=limit) as file:
                    here.metrics.uploaded.inc(file.stat().st_size)
                    job = Job(file, UPLOAD_NAME, ours=True)
                    take(job)
            elif kind == "application/json":
                job = await _named(request, here)
                take(job)
            else:
                raise ProblemError(415, "send a multipart/form-data with the field `file`, or application/json")
    except ProblemError:
        await drain(request, limit)
        raise
    except ClientDisconnect:
        raise ProblemError(400, "the connection ended before the body did") from None  # nobody reads it
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return JobShown.of(job, here.jobs)


async def _named(request: Request, here: Service) -> Job:
    """A job for a file that is there."""
    try:
        asked = PathAsked.model_validate_json(await body(request, max_bytes=_MOST_JSON))
    except ValidationError as error:
        raise ProblemError(
            422, "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        ) from None
    if here.settings.root is None:
        raise ProblemError(404, "this service takes no paths: send the clip as a form, or start it with --root FOLDER")
    file = await run_in_threadpool(_below, here.settings.root, asked.path)
    return Job(file, asked.path, ours=False)


def _below(root: Path, path: str) -> Path:
    """The file; raises ProblemError, which does not say what else there is."""
    try:
        file = media.inside(root, path)
        media.check_file(file)
    except (media.MediaError, OSError, ValueError):
        raise ProblemError(404, "below the service's folder there is no such file that can be read") from None
    return file


@guarded.get("/v1/jobs/{job_id}", response_model=JobShown, responses=described(404, 422))
async def job(
    job: Found,
    here: Here,
    wait_s: Annotated[float, Query(ge=0, le=MOST_WAIT_S, description="Answer when it is over, or after so long.")] = 0,
) -> JobShown:
    """How far a job is, and its result."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            while wait_s and not job.over:
                await job.change.wait()
    return JobShown.of(job, here.jobs)


@guarded.get("/v1/jobs/{job_id}/events", response_class=EventSourceResponse, responses=described(404))
async def events(job: Found, here: Here) -> AsyncIterator[ServerSentEvent]:
    """The same as server-sent events, each named `job`: one now, one at every change, the last with the result."""
    while True:
        change = job.change
        yield ServerSentEvent(event="job", data=JobShown.of(job, here.jobs))
        if job.over:
            return
        await change.wait()


@guarded.get("/v1/jobs/{job_id}/page", response_class=HTMLResponse, responses=described(404))
async def answers_page(job: Found, here: Here) -> HTMLResponse:
    """The answer as the page that `bmnas predict --html` writes, without pictures of the clip: it is gone."""
    if job.result is None:
        raise ProblemError(404, "there is no answer yet: ask for the job until its state is done or failed")
    shown = Shown(missing=(_GONE,), name=_UNNAMED if job.ours else "")
    told = await run_in_threadpool(page, job.result, shown, here.about)
    return HTMLResponse(told, headers={"Content-Security-Policy": policy()})


@guarded.get("/v1/detector", response_model=DetectorShown)
async def detector(here: Here) -> DetectorShown:
    """What answers here, what it is worth, and what it takes."""
    return DetectorShown(detector=here.about, limits=Limits.of(here.settings))


@open_to_all.get("/healthz", response_model=Health, responses={503: {"model": Health}})
async def healthz(here: Here, response: Response) -> Health:
    """Whether clips can be scored now."""
    ready = here.jobs.ready
    response.status_code = 200 if ready else 503
    return Health(status="ok" if ready else "no worker is ready", workers=ready, held=here.jobs.held)


@guarded.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(here: Here) -> Response:
    """For Prometheus."""
    return Response(here.metrics.text(), media_type="text/plain; version=0.0.4")
