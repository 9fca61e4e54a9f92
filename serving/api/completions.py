"""POST /v1/completions."""

from __future__ import annotations

import asyncio

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from serving.api.best_of import BestOfWriter
from serving.api.errors import invalid
from serving.api.respond import Call, respond
from serving.api.schemas import CompletionBody
from serving.api.service import Service
from serving.api.writers import CompletionWriter
from serving.engines.base import GenerationRequest
from serving.grammar import Grammar


async def completions(request: Request) -> Response:
    return await respond(request, "completions", CompletionBody, _prepare)


async def _prepare(service: Service, body: CompletionBody, arrived: float) -> Call:
    prompts = body.prompts
    if not prompts:
        raise invalid("prompt is empty", "prompt")
    service.check_room(len(prompts) * body.candidates)
    grammar = await service.grammar(body.schema_demanded)
    requests: list[GenerationRequest] = []
    echoes: list[str] = []
    for prompt in prompts:
        tokens = await _tokens(service, prompt, body.max_tokens)
        echo = await _echo(service, prompt) if body.echo else ""
        for choice in range(body.candidates):
            requests.append(_request(body, tokens, len(requests), choice, arrived, grammar))
            echoes.append(echo)
    if body.candidates > body.n:
        return Call(requests, BestOfWriter(service, requests, body, echoes))
    return Call(requests, CompletionWriter(service, requests, body.usage_events, echoes))


async def _echo(service: Service, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else await asyncio.to_thread(service.tokenizer.decode, prompt)


async def _tokens(service: Service, prompt: str | list[int], generate: int) -> np.ndarray:
    if isinstance(prompt, str):
        service.check_text(prompt, "prompt")
        tokens = await asyncio.to_thread(service.tokenizer.encode, prompt)
        service.check_tokens(tokens, generate, "prompt")
        return tokens
    service.check_tokens(prompt, generate, "prompt")
    return np.array(prompt, dtype=np.int64)


def _request(
    body: CompletionBody,
    tokens: np.ndarray,
    index: int,
    choice: int,
    arrived: float,
    grammar: Grammar | None,
) -> GenerationRequest:
    return GenerationRequest(
        prompt=tokens,
        sampling=body.sampling,
        max_tokens=body.max_tokens,
        arrived=arrived,
        index=index,
        choice=choice,
        min_tokens=body.min_tokens,
        stop=tuple(body.stop),
        ignore_eos=body.ignore_eos,
        logprobs=body.logprobs or 0 if body.candidates > body.n else body.logprobs,
        score_prompt=body.echo and body.logprobs is not None,
        grammar=grammar,
        cache_salt=body.cache_salt,
    )
