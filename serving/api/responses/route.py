"""POST /v1/responses, and the routes of stored responses, of which there are none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from lathe.serving.api.chat import chat_tokens
from lathe.serving.api.handler import respond
from lathe.serving.api.prepared_request import PreparedRequest, with_common_fields
from lathe.serving.api.responses.body import ResponsesBody
from lathe.serving.api.responses.writer import ResponseWriter
from lathe.serving.api.service import Service
from lathe.serving.backend import GenerationRequest
from lathe.serving.http.errors import ApiError
from lathe.serving.http.trailing_slashes import to_the_shorter

Json = dict[str, Any]
CALLED_HERE = {"messages": "input", "reasoning_effort": "reasoning"}
"""Names of a chat's fields, by their names in a response."""


async def create_response(request: Request) -> Response:
    """Answers POST /v1/responses."""
    return await respond(request, "responses", ResponsesBody, _prepare)


async def stored_response(request: Request) -> Response:
    """Refuses to read, cancel or delete a response, since none is stored."""
    name, _, part = request.path_params["id"].partition("/")
    if not name:
        return to_the_shorter(request.scope)
    if request.method == "POST" and part != "cancel":  # what else OpenAI computes below this path
        raise HTTPException(404)
    raise ApiError(404, f"there is no response {name[:100]!r}: this server stores none", param="response_id")


async def _prepare(service: Service, body: ResponsesBody, arrived: float) -> PreparedRequest:
    service.check_capacity(1)
    use, schema = body.tool_use, body.schema_demanded
    calling = service.tools.calling(use, schema, "text")
    tokens = await _tokens(service, body, use.shown if use else ())
    limit = body.max_output_tokens
    service.check_tokens(tokens, limit or 1, "input")
    answer = await (
        service.tool_grammar(calling.spec, "text") if calling else service.grammar(schema, "text")
    )
    most = limit or service.room_after(tokens)
    service.check_minimum(body.min_tokens, most)
    reasoning = service.reasoning.beginning(tokens)
    request = with_common_fields(
        service,
        body,
        GenerationRequest(
            prompt=tokens,
            sampling=body.sampling,
            arrived=arrived,
            max_tokens=most,
            logprobs=body.num_logprobs,
            grammar=service.reasoning.before(answer, reasoning),
            index=0,
            choice=0,
            visible_tokens=service.reasoning.visible_tokens | (calling.visible_tokens if calling else {}),
            no_stops_after=calling.no_stops_after if calling else (),
        ),
    )
    return PreparedRequest(
        [request], lambda served: ResponseWriter(served, body, request, reasoning, calling)
    )


async def _tokens(service: Service, body: ResponsesBody, tools: Sequence[Json]) -> np.ndarray:
    """Returns the conversation's tokens; errors name the input as the field at fault."""
    try:
        return await chat_tokens(service, body.messages, tools, body.template_options)
    except ApiError as error:
        param = CALLED_HERE.get(str(error.param), error.param)
        message = re.sub(r"^messages(\.\d+\.\w+(?=: )|(?= is ))", "input", error.message)
        raise ApiError(error.status, message, param=param, code=error.code) from None
