"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from serving.api.errors import invalid
from serving.api.messages import Message
from serving.api.respond import Call, respond
from serving.api.schemas import ChatBody
from serving.api.service import Service
from serving.api.writers import ChatWriter
from serving.engines.base import GenerationRequest
from serving.tokenizer import TemplateError


async def chat_completions(request: Request) -> Response:
    return await respond(request, "chat", ChatBody, _prepare)


async def chat_tokens(service: Service, messages: Sequence[Message], param: str = "messages") -> np.ndarray:
    """int64 [T]: the messages as the model is given them. Raises ApiError 400."""
    if not service.tokenizer.has_chat_template:
        raise invalid(f"{service.name} has no chat template; use /v1/completions", param)
    given = [message.for_template() for message in messages]
    service.check_text("".join(message["content"] for message in given), param)
    try:
        return await asyncio.to_thread(service.tokenizer.encode_chat, given)
    except TemplateError as error:
        raise invalid(f"the chat template refused the messages: {error}", param) from None


async def _prepare(service: Service, body: ChatBody, arrived: float) -> Call:
    service.check_room(body.n)
    tokens = await chat_tokens(service, body.messages)
    service.check_tokens(tokens, body.limit or 1, "messages")
    grammar = service.thinking.before(await service.grammar(body.schema_demanded), tokens)
    requests = [
        GenerationRequest(
            prompt=tokens,
            sampling=body.sampling,
            max_tokens=body.limit or service.backend.max_length - len(tokens),
            arrived=arrived,
            index=choice,
            choice=choice,
            min_tokens=body.min_tokens,
            stop=tuple(body.stop),
            ignore_eos=body.ignore_eos,
            logprobs=body.top_logprobs if body.logprobs else None,
            grammar=grammar,
            cache_salt=body.cache_salt,
            spelled=service.thinking.spelled,
        )
        for choice in range(body.n)
    ]
    return Call(requests, ChatWriter(service, requests, body.usage_events, tier=body.service_tier))
