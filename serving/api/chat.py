"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from lathe.serving.api.chat_history import History
from lathe.serving.api.handler import respond
from lathe.serving.api.messages import Message
from lathe.serving.api.prepared_request import PreparedRequest, with_common_fields
from lathe.serving.api.response_builder import ChatWriter
from lathe.serving.api.schemas import ChatBody
from lathe.serving.api.service import Service
from lathe.serving.api.template_options import TemplateOptions
from lathe.serving.backend import GenerationRequest
from lathe.serving.decoding.chat_template import TemplateError
from lathe.serving.http.errors import invalid
from lathe.serving.http.limits import FieldError

AS_USUAL = TemplateOptions()


async def chat_completions(request: Request) -> Response:
    """Answers POST /v1/chat/completions."""
    return await respond(request, "chat", ChatBody, _prepare)


async def chat_tokens(
    service: Service,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
    options: TemplateOptions = AS_USUAL,
) -> np.ndarray:
    """Renders messages with the chat template and returns their tokens, int64 [T].

    Raises:
        ApiError: 400 when the template refuses the messages or the prompt is too long.
    """
    if not service.tokenizer.has_chat_template:
        raise invalid(f"{service.name} has no chat template; use /v1/completions", "messages")
    support = service.tools.support
    if tools and support is None:
        raise invalid("tools: this model's chat template shows no tools", "tools")
    thoughts = "reasoning_content" in service.tokenizer.chat_template
    given = History(support, tools=bool(tools), thoughts=thoughts).written(messages)
    calls = [call for message in given for call in message.get("tool_calls", ())]
    service.check_text("".join(message["content"] for message in given) + _text(calls), "messages")
    service.check_text(_text(tools), "tools")
    try:
        how = options.rendering(service.tokenizer.template)
        return await asyncio.to_thread(service.tokenizer.encode_chat, given, tools, how)
    except (TemplateError, FieldError) as error:
        raise invalid(str(error), error.field) from None


def _text(documents: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(document, ensure_ascii=False) for document in documents)


async def _prepare(service: Service, body: ChatBody, arrived: float) -> PreparedRequest:
    service.check_capacity(body.n)
    use = body.tool_use
    calling = service.tools.calling(use, body.schema_demanded)
    tokens = await chat_tokens(service, body.messages, use.shown if use else (), body)
    service.check_tokens(tokens, body.limit or 1, "messages")
    most = body.limit or service.room_after(tokens)
    service.check_minimum(body.min_tokens, most)
    answer = (
        await service.tool_grammar(calling.spec) if calling else await service.grammar(body.schema_demanded)
    )
    said = body.messages[-1].text if body.continue_final_message else None
    reasoning = service.reasoning.beginning(tokens, said)
    grammar = service.reasoning.before(answer, reasoning)
    requests = [
        with_common_fields(
            service,
            body,
            GenerationRequest(
                prompt=tokens,
                sampling=body.sampling,
                arrived=arrived,
                max_tokens=most,
                logprobs=body.top_logprobs if body.logprobs else None,
                grammar=grammar,
                index=choice,
                choice=choice,
                visible_tokens=service.reasoning.visible_tokens | (calling.visible_tokens if calling else {}),
                no_stops_after=calling.no_stops_after if calling else (),
            ),
        )
        for choice in range(body.n)
    ]
    return PreparedRequest(
        requests,
        lambda served: ChatWriter(served, requests, body.usage_events, reasoning, calling, body.service_tier),
    )
