"""Health probes, version and metrics."""

from __future__ import annotations

import asyncio
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lathe.serving.api.service import Service
from lathe.serving.http.errors import ApiError


async def live(request: Request) -> Response:
    """Answers 200 unless the engine has failed, which only a new process can mend."""
    service: Service = request.app.state.service
    if service.ready and not service.draining and not service.backend.healthy:
        raise ApiError(503, "the engine has failed", code="unavailable")
    return JSONResponse({"status": "live"})


async def ready(request: Request) -> Response:
    """Answers 200 from the first generated token until the server is told to stop or its engine fails."""
    service: Service = request.app.state.service
    if service.draining:
        raise ApiError(503, "the server is stopping", code="unavailable")
    if not service.ready:
        raise ApiError(503, "the server is starting", code="unavailable")
    if not service.backend.healthy:
        raise ApiError(503, "the engine has failed", code="unavailable")
    return JSONResponse({"status": "ready"})


async def show_version(_: Request) -> Response:
    """Answers GET /version."""
    try:
        return JSONResponse({"version": version("lathe")})
    except PackageNotFoundError:
        raise ApiError(404, "this server runs from an uninstalled source tree") from None


async def metrics(request: Request) -> Response:
    """Answers GET /metrics."""
    service: Service = request.app.state.service
    return Response(
        await asyncio.to_thread(service.metrics.exposition.render), media_type=CONTENT_TYPE_LATEST
    )
