"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving.api.service import Service


async def list_models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_card(request.app.state.service)]})


async def retrieve_model(request: Request) -> Response:
    service: Service = request.app.state.service
    service.check_model(request.path_params["id"])
    return JSONResponse(_card(service))


def _card(service: Service) -> dict[str, object]:
    return {"id": service.name, "object": "model", "created": service.created, "owned_by": "lathe"}
