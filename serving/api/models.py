"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lathe.serving.api.service import Service
from lathe.serving.http.trailing_slashes import to_the_shorter


async def list_models(request: Request) -> Response:
    """Answers GET /v1/models."""
    service: Service = request.app.state.service
    return JSONResponse({"object": "list", "data": [_card(service, name) for name in service.names]})


async def retrieve_model(request: Request) -> Response:
    """Answers GET /v1/models/{id}."""
    service: Service = request.app.state.service
    name = request.path_params["id"]
    if not name:
        return to_the_shorter(request.scope)
    service.check_model(name)
    return JSONResponse(_card(service, name))


def _card(service: Service, name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": service.created, "owned_by": "lathe"}
