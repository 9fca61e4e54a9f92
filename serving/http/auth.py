"""Requires an API key for every route but the health probes and the playground's files."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from lathe.serving.http.errors import ApiError, error_response

OPEN_PATHS = ("/health", "/health/live", "/health/ready")


class RequireKey:
    """ASGI middleware. It judges `scope["path"]`, the path that is routed, never the Host header."""

    def __init__(self, app: ASGIApp, digest: bytes, open_paths: Collection[str] = OPEN_PATHS) -> None:
        """Wraps an application.

        Args:
            app: what is protected.
            digest: the `key_digest` of the key.
            open_paths: paths that are answered without a key.
        """
        self._app = app
        self._digest = digest
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._open_paths or self._admits(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401, "a valid API key is required: `Authorization: Bearer KEY`", code="invalid_api_key"
        )
        await error_response(error)(scope, receive, send)

    def _admits(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        return hmac.compare_digest(key_digest(key.strip()), self._digest) and scheme.lower() == "bearer"


def key_digest(key: str) -> bytes:
    """Returns the digest by which a key is recognized."""
    return hashlib.sha256(key.encode()).digest()
