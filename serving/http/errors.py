"""Errors in OpenAI's form, on every route and status."""

from __future__ import annotations

import logging
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

LONGEST_MESSAGE = 1000
RETRY_AFTER_S = 1
CLIENT_CLOSED = 499
TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}

log = logging.getLogger("lathe.serving")


class ApiError(Exception):
    """An answer other than 200; `param` names the field of the request that is at fault."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message[:LONGEST_MESSAGE]
        self.param = param
        self.code = code


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Returns an error with status 400."""
    return ApiError(400, message, param=param, code=code)


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Returns the JSON document of an error."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: ApiError) -> JSONResponse:
    """Returns the response for an error."""
    headers = {"retry-after": str(RETRY_AFTER_S)} if error.status in (429, 503) else {}
    if error.status in (401, 413, 415):  # the body may be unread, and endless
        headers["connection"] = "close"
    if error.status == 504:  # OpenAI's clients would ask again at once
        headers["x-should-retry"] = "false"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    body = error_body(error.status, error.message, error.param, error.code)
    return JSONResponse(body, error.status, headers)


async def on_api_error(_: Request, error: Exception) -> JSONResponse:
    """Handles an error of ours."""
    return error_response(error if isinstance(error, ApiError) else ApiError(500, "internal error"))


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Handles Starlette's own errors: unknown routes and methods."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    message = {
        404: f"there is no {request.url.path[:200]} here",
        405: f"{request.method[:20]} is not allowed on {request.url.path[:200]}",
    }.get(status, "the request cannot be answered")
    return JSONResponse(error_body(status, message), status, headers)


async def on_crash(_: Request, error: Exception) -> JSONResponse:
    """Handles an unexpected exception."""
    log.error("a request crashed", exc_info=error)
    return JSONResponse(error_body(500, "internal error"), 500)
