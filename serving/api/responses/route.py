"""POST /v1/responses, and the routes of stored responses, of which there are none."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from serving.api.chat import chat_tokens
from serving.api.errors import ApiError
from serving.api.respond import Call, respond
from serving.api.responses.body import ResponsesBody
from serving.api.responses.writer import ResponseWriter
from serving.api.service import Service
from serving.engines.base import GenerationRequest


async def create_response(request: Request) -> Response:
    return await respond(request, "responses", ResponsesBody, _prepare)


async def stored_response(request: Request) -> Response:
    """What reads, cancels or deletes a response."""
    name = request.path_params["id"].partition("/")[0]
    raise ApiError(404, f"there is no response {name[:100]!r}: this server stores none", param="response_id")


async def _prepare(service: Service, body: ResponsesBody, arrived: float) -> Call:
    service.check_room(1)
    tokens = await chat_tokens(service, body.messages, "input")
    limit = body.max_output_tokens
    service.check_tokens(tokens, limit or 1, "input")
    grammar = await service.grammar(body.schema_demanded, "text")
    request = GenerationRequest(
        prompt=tokens,
        sampling=body.sampling,
        max_tokens=limit or service.backend.max_length - len(tokens),
        arrived=arrived,
        min_tokens=body.min_tokens,
        stop=tuple(body.stop),
        ignore_eos=body.ignore_eos,
        logprobs=body.scores,
        grammar=service.thinking.before(grammar, tokens),
        cache_salt=body.cache_salt,
        spelled=service.thinking.spelled,
    )
    return Call([request], ResponseWriter(service, body, request))
