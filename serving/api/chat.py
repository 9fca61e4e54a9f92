"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from serving.api.errors import invalid
from serving.api.limits import FieldError
from serving.api.messages import Message
from serving.api.prepare import generation_request
from serving.api.respond import Call, respond
from serving.api.schemas import ChatBody
from serving.api.service import Service
from serving.api.template_options import TemplateOptions
from serving.api.writers import ChatWriter
from serving.chat_template import TemplateError


async def chat_completions(request: Request) -> Response:
    return await respond(request, "chat", ChatBody, _prepare)


async def chat_tokens(
    service: Service, messages: Sequence[Message], options: TemplateOptions
) -> np.ndarray:
    """int64 [T]: the messages as the model is given them. Raises ApiError 400."""
    if not service.tokenizer.has_chat_template:
        raise invalid(f"{service.name} has no chat template; use /v1/completions", "messages")
    given = [message.for_template() for message in messages]
    service.check_text("".join(message["content"] for message in given), "messages")
    try:
        how = options.rendering(service.tokenizer.template)
        return await asyncio.to_thread(service.tokenizer.encode_chat, given, how)
    except (TemplateError, FieldError) as error:
        raise invalid(str(error), error.field) from None


async def _prepare(service: Service, body: ChatBody, arrived: float) -> Call:
    service.check_room(body.n)
    tokens = await chat_tokens(service, body.messages, body)
    service.check_tokens(tokens, body.limit or 1, "messages")
    room = service.backend.max_length - len(tokens)
    most = body.limit or min(room, int(service.defaults.get("max_new_tokens", room)))
    service.check_minimum(body.min_tokens, most)
    grammar = await service.grammar(body.schema_demanded)
    requests = [
        generation_request(
            service,
            body,
            tokens,
            arrived=arrived,
            max_tokens=most,
            logprobs=body.top_logprobs if body.logprobs else None,
            grammar=grammar,
            index=choice,
            choice=choice,
        )
        for choice in range(body.n)
    ]
    return Call(requests, ChatWriter(service, requests, body.usage_events))
