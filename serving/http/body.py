"""Reads a request's JSON body, within limits, into a pydantic model."""

from __future__ import annotations

from typing import Any, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from lathe.serving.http.errors import CLIENT_CLOSED, ApiError, invalid
from lathe.serving.http.limits import FieldError, Limits
from lathe.serving.http.validation_errors import describe_problem

BODY_LIMIT = 4 * 2**20

Model = TypeVar("Model", bound=BaseModel)


async def read_model(request: Request, model: type[Model], limits: Limits | None = None) -> Model:
    """Returns the validated body.

    Args:
        request: the HTTP request.
        model: the class of the body.
        limits: the size limits, for models that know them.

    Raises:
        ApiError: 400 malformed or invalid, 413 too large, 415 not JSON.
    """
    try:
        document = pydantic_core.from_json(await read_json(request), allow_inf_nan=False)
    except ValueError as error:
        raise invalid(f"the body is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise invalid("the body must be a JSON object")
    try:
        return model.model_validate(document, context=limits)
    except ValidationError as error:
        raise _invalid_field(error, document) from None


async def read_json(request: Request) -> bytes:
    """Returns the bytes of a body that is declared to be JSON.

    Raises:
        ApiError: 413 too large, 415 not JSON.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "the body must be JSON, sent with `Content-Type: application/json`")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > BODY_LIMIT:
        raise _too_large()
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > BODY_LIMIT:
                raise _too_large()
    except ClientDisconnect:
        raise ApiError(CLIENT_CLOSED, "the client went away") from None
    return bytes(body)


def _too_large() -> ApiError:
    return ApiError(413, f"the body is larger than {BODY_LIMIT} bytes", code="request_too_large")


def _invalid_field(error: ValidationError, document: dict[str, Any]) -> ApiError:
    found = describe_problem(error, document)
    if isinstance(found.cause, FieldError):
        return invalid(str(found.cause), found.cause.field)
    path = ".".join(str(part) for part in found.path)[:100]
    return invalid(
        f"{path}: {found.message}" if path else found.message, str(found.path[0]) if path else None
    )
