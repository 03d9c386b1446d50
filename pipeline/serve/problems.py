"""Errors as problem details (RFC 9457), the same for everything that goes wrong."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cache_schemas.paths import plain_text

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger("bmnas.serve")


class Problem(BaseModel):
    """What went wrong, in words for people."""

    type: str = "about:blank"
    title: str = Field(examples=["Content Too Large"])
    status: int = Field(examples=[413])
    detail: str = Field(examples=["more than 500,000,000 bytes, the most that is taken here"])


class ProblemError(Exception):
    """Something that the one who asked should be told."""

    def __init__(self, status: int, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after_s = status, detail, retry_after_s


def answer(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """The problem as a response."""
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=plain_text(detail))
    return Response(problem.model_dump_json(), status, headers, MEDIA_TYPE)


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: these statuses come as problems."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def tell_problems(app: FastAPI) -> None:
    """Whatever goes wrong in the app is told as a problem."""

    @app.exception_handler(ProblemError)
    async def _ours(_: Request, error: ProblemError) -> Response:
        headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else {}
        if error.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return answer(error.status, error.detail, headers)

    @app.exception_handler(HTTPException)
    async def _theirs(_: Request, error: HTTPException) -> Response:
        return answer(error.status_code, error.detail, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        found = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        return answer(422, "; ".join(found))

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> Response:
        _log.error("%s %s failed", request.method, request.scope.get("path"), exc_info=error)
        return answer(500, "the service made a mistake; its log says which")
