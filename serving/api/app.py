"""The application: routes, error handlers, and the optional middleware."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from lathe.serving.api import health
from lathe.serving.api.chat import chat_completions
from lathe.serving.api.completions import completions
from lathe.serving.api.models import list_models, retrieve_model
from lathe.serving.api.openapi import show_openapi
from lathe.serving.api.responses.route import create_response, stored_response
from lathe.serving.api.service import Service
from lathe.serving.api.tokenize import detokenize, tokenize, tokenizer_info
from lathe.serving.http.auth import OPEN_PATHS, RequireKey, key_digest
from lathe.serving.http.cors import cross_origin
from lathe.serving.http.errors import ApiError, on_api_error, on_crash, on_http_error
from lathe.serving.http.trailing_slashes import relative_slashes
from lathe.serving.playground.pages import Playground

ROUTES = [
    Route("/v1/completions", completions, methods=["POST"]),
    Route("/v1/chat/completions", chat_completions, methods=["POST"]),
    Route("/v1/responses", create_response, methods=["POST"]),
    Route("/v1/responses/{id:path}", stored_response, methods=["GET", "POST", "DELETE"]),
    Route("/v1/models", list_models),
    Route("/v1/models/{id:path}", retrieve_model),
    Route("/tokenize", tokenize, methods=["POST"]),
    Route("/detokenize", detokenize, methods=["POST"]),
    Route("/tokenizer_info", tokenizer_info),
    Route("/health", health.ready),
    Route("/health/live", health.live),
    Route("/health/ready", health.ready),
    Route("/version", health.show_version),
    Route("/metrics", health.metrics),
    Route("/openapi.json", show_openapi),
]


def create_app(
    service: Service,
    api_key: str | None = None,
    allowed_origins: Sequence[str] = (),
    playground: Playground | None = None,
) -> Starlette:
    """Creates the ASGI application.

    Args:
        service: what the routes work with.
        api_key: if given, every route but the health probes and the playground's files requires it.
        allowed_origins: web pages that may call from a browser.
        playground: the page at `/`, if there is one.
    """
    pages, open_paths = (playground.routes, playground.open_paths) if playground else ([], frozenset())
    middleware = []
    if allowed_origins:
        middleware.append(Middleware(cross_origin, origins=allowed_origins))
    if api_key:
        without_key = {*OPEN_PATHS, *open_paths}
        middleware.append(Middleware(RequireKey, digest=key_digest(api_key), open_paths=without_key))
    app = Starlette(
        routes=[*ROUTES, *pages],
        middleware=middleware,
        exception_handlers={ApiError: on_api_error, HTTPException: on_http_error, Exception: on_crash},
    )
    relative_slashes(app.router)
    app.state.service = service
    return app
