"""POST /v1/completions."""

from __future__ import annotations

import asyncio

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from lathe.serving.api.best_of import BestOfWriter
from lathe.serving.api.handler import respond
from lathe.serving.api.prepared_request import PreparedRequest, with_common_fields
from lathe.serving.api.response_builder import CompletionWriter
from lathe.serving.api.schemas import CompletionBody
from lathe.serving.api.service import Service
from lathe.serving.backend import GenerationRequest
from lathe.serving.http.errors import invalid


async def completions(request: Request) -> Response:
    """Answers POST /v1/completions."""
    return await respond(request, "completions", CompletionBody, _prepare)


async def _prepare(service: Service, body: CompletionBody, arrived: float) -> PreparedRequest:
    prompts = body.prompts
    if not prompts:
        raise invalid("prompt is empty", "prompt")
    service.check_minimum(body.min_tokens, body.max_tokens)
    service.check_capacity(len(prompts) * body.candidates)
    grammar = await service.grammar(body.schema_demanded)
    logprobs = body.logprobs or 0 if body.candidates > body.n else body.logprobs
    requests: list[GenerationRequest] = []
    echoes: list[str] = []
    for prompt in prompts:
        tokens = await _tokens(service, prompt, body)
        echo = await _echo(service, prompt) if body.echo else ""
        for choice in range(body.candidates):
            requests.append(
                with_common_fields(
                    service,
                    body,
                    GenerationRequest(
                        prompt=tokens,
                        sampling=body.sampling,
                        arrived=arrived,
                        max_tokens=body.max_tokens,
                        logprobs=logprobs,
                        grammar=grammar,
                        index=len(requests),
                        choice=choice,
                        prompt_logprobs=body.echo and body.logprobs is not None,
                    ),
                )
            )
            echoes.append(echo)
    if body.candidates > body.n:
        return PreparedRequest(requests, lambda served: BestOfWriter(served, requests, body, echoes))
    return PreparedRequest(
        requests, lambda served: CompletionWriter(served, requests, body.usage_events, echoes)
    )


async def _echo(service: Service, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else await asyncio.to_thread(service.tokenizer.decode, prompt)


async def _tokens(service: Service, prompt: str | list[int], body: CompletionBody) -> np.ndarray:
    if isinstance(prompt, str):
        service.check_text(prompt, "prompt")
        special = body.add_special_tokens is not False
        tokens = await asyncio.to_thread(service.tokenizer.encode, prompt, special=special)
        service.check_tokens(tokens, body.max_tokens, "prompt")
        return tokens
    if body.add_special_tokens:
        raise invalid("add_special_tokens is for prompts of text; this one is tokens", "add_special_tokens")
    service.check_tokens(prompt, body.max_tokens, "prompt")
    return np.array(prompt, dtype=np.int64)
