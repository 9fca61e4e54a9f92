"""GET /openapi.json: the routes and the request bodies, as the server checks them."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lathe.serving.api.answering import REASON_HEADER, SUBNET_HEADER
from lathe.serving.api.responses.body import ResponsesBody
from lathe.serving.api.schemas import ChatBody, CompletionBody
from lathe.serving.api.tokenize import DetokenizeBody, TokenizeBody
from lathe.serving.http.forwarded_prefix import forwarded_prefix

Json = dict[str, Any]
POSTS: dict[str, type[BaseModel]] = {
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
    "/v1/responses": ResponsesBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
}
GETS = (
    "/v1/models",
    "/v1/models/{id}",
    "/v1/responses/{id}",
    "/tokenizer_info",
    "/health",
    "/health/live",
    "/health/ready",
    "/version",
)
SUBNET_HEADERS = {
    SUBNET_HEADER: "The subnet that answers, where a family is served.",
    REASON_HEADER: "Why it is that one.",
}
ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


async def show_openapi(request: Request) -> Response:
    """Answers GET /openapi.json."""
    prefix = forwarded_prefix(request)
    return JSONResponse(document() | ({"servers": [{"url": prefix}]} if prefix else {}))


@cache
def document() -> Json:
    """Returns the OpenAPI document of all routes."""
    schemas: Json = {"Error": ERROR}
    paths: Json = {path: {"get": _operation(_parameters(path))} for path in GETS}
    scrape = {"description": "For Prometheus.", "content": {"text/plain": {}}}
    paths["/metrics"] = {"get": {"responses": {"200": scrape}}}
    for path, body in POSTS.items():
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[body.__name__] = schema
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
        operation = _operation([], streams=path.startswith("/v1/"))
        paths[path] = {"post": operation | {"requestBody": {"required": True, "content": content}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Lathe", "version": "1", "description": "Compatible with OpenAI's API."},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(parameters: list[Json], streams: bool = False) -> Json:
    answer: Json = {"application/json": {"schema": {"type": "object"}}}
    if streams:
        answer["text/event-stream"] = {}
    answered = {"description": "The answer.", "content": answer}
    if streams:
        answered["headers"] = {name: _header(text) for name, text in SUBNET_HEADERS.items()}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses = {
        "200": answered,
        "default": {"description": "An error.", "content": error},
    }
    return {"responses": responses, "parameters": parameters}


def _header(text: str) -> Json:
    return {"description": text, "required": False, "schema": {"type": "string"}}


def _parameters(path: str) -> list[Json]:
    if "{id}" not in path:
        return []
    return [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
