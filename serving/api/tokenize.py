"""Routes /tokenize, /detokenize and /tokenizer_info, in vLLM's form."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from pydantic import ConfigDict, Field, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lathe.serving.api.chat import chat_tokens
from lathe.serving.api.messages import Message
from lathe.serving.api.schemas import Token
from lathe.serving.api.service import Service
from lathe.serving.api.strict import Strict
from lathe.serving.api.template_options import TemplateOptions
from lathe.serving.api.tool_fields import MAX_TOOLS, FunctionTool
from lathe.serving.http.body import read_model
from lathe.serving.http.errors import ApiError, invalid
from lathe.serving.http.limits import FieldError

MAX_TOKENS = 2**18
CONTEXTS = 64
"""A text may be this many contexts long: evaluations cut documents into windows later."""


class _Body(Strict):
    model_config = ConfigDict(protected_namespaces=())

    model: str | None = None


class TokenizeBody(_Body, TemplateOptions):
    """The body of POST /tokenize: a prompt, or the messages of a chat with its tools."""

    prompt: str | None = None
    messages: list[Message] | None = Field(None, min_length=1, max_length=10_000)
    tools: list[FunctionTool] = Field([], max_length=MAX_TOOLS)
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_of_them(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise FieldError("prompt", "give either a prompt or messages")
        given = self.model_fields_set & (TemplateOptions.model_fields.keys() - {"add_special_tokens"})
        if given and self.messages is None:
            raise FieldError(min(given), f"{min(given)} is for messages; this is a prompt")
        if self.tools and self.messages is None:
            raise FieldError("tools", "tools belong to messages")
        return self


class DetokenizeBody(_Body):
    """The body of POST /detokenize."""

    tokens: list[Token] = Field(max_length=MAX_TOKENS)


async def tokenize(request: Request) -> Response:
    """Answers POST /tokenize."""
    service, body = await _read(request, TokenizeBody)
    tokens = await _tokens(service, body)
    document = {
        "count": len(tokens),
        "max_model_len": service.backend.max_length,
        "tokens": tokens.tolist(),
    }
    if body.return_token_strs:
        document["token_strs"] = [
            service.tokenizer.display_bytes(token).decode(errors="replace") for token in tokens
        ]
    return JSONResponse(document)


async def detokenize(request: Request) -> Response:
    """Answers POST /detokenize."""
    service, body = await _read(request, DetokenizeBody)
    service.check_known(body.tokens, "tokens")
    if len(body.tokens) > (limit := CONTEXTS * service.backend.max_length):
        raise invalid(f"{len(body.tokens)} tokens; this server joins up to {limit}", "tokens")
    text = await asyncio.to_thread(service.tokenizer.decode, body.tokens, special=True)
    return JSONResponse({"prompt": text})


async def tokenizer_info(request: Request) -> Response:
    """Answers GET /tokenizer_info."""
    service: Service = request.app.state.service
    return JSONResponse(await asyncio.to_thread(service.tokenizer.info))


async def _read(request: Request, kind: type[Any]) -> tuple[Service, Any]:
    service: Service = request.app.state.service
    body = await read_model(request, kind)
    if body.model is not None:
        service.check_model(body.model)
    return service, body


async def _tokens(service: Service, body: TokenizeBody) -> np.ndarray:
    if body.messages is not None:
        tools = [tool.for_template() for tool in body.tools]
        return await chat_tokens(service, body.messages, tools, body)
    prompt, limit = body.prompt or "", CONTEXTS * service.backend.max_length
    if service.tokenizer.surely_longer_than(prompt, limit):
        raise _too_long("far more", limit)
    special = body.add_special_tokens is not False
    tokens = await asyncio.to_thread(service.tokenizer.encode, prompt, special=special)
    if len(tokens) > limit:
        raise _too_long(str(len(tokens)), limit)
    return tokens


def _too_long(count: str, limit: int) -> ApiError:
    message = f"prompt has {count} tokens; this server splits texts of up to {limit}"
    return invalid(message, "prompt", "context_length_exceeded")
