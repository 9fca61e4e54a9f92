"""A fake OpenAI server with set latencies, to calibrate a load test and to try faults on it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

Fault = Literal["none", "429", "500", "drop", "truncate", "malformed", "error_event"]


@dataclass
class Mock:
    """A fake server; its fields may be changed while it runs.

    Tokens leave when they are due, whatever the work between them took, so that a long answer has
    exactly the set pace. The first token of an answer is due `ttft_s` after the request, the others
    `itl_s` apart and `itl_each_s` more for every other answer under way. Requests beyond `most_running`
    get a 429. A word of the prompt is `tokens_per_word` tokens. With `last_without_text` the last token
    (an end token, say) has no text and comes with the finish reason, which otherwise has a chunk of its
    own. Every `fault_every`-th streamed request has the fault.
    """

    ttft_s: float = 0.0
    itl_s: float = 0.0
    itl_each_s: float = 0.0
    most_running: int | None = None
    model: str = "mock"
    tokens_per_word: int = 1
    fault: Fault = "none"
    fault_every: int = 1
    usage: bool = True
    last_without_text: bool = False
    api_key: str | None = None
    metrics: str | None = None
    streamed: int = 0
    running: int = 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/completions", self._answer, methods=["POST"]),
                Route("/v1/chat/completions", self._answer, methods=["POST"]),
                Route("/metrics", self._metrics),
            ]
        )

    async def _models(self, request: Request) -> Response:
        if self.api_key and request.headers.get("authorization") != f"Bearer {self.api_key}":
            return JSONResponse({"error": {"message": "wrong key"}}, 401)
        return JSONResponse({"object": "list", "data": [{"id": self.model, "object": "model"}]})

    async def _metrics(self, _request: Request) -> Response:
        return PlainTextResponse(self.metrics or "", 404 if self.metrics is None else 200)

    async def _answer(self, request: Request) -> Response:
        body = await request.json()
        text = body["prompt"] if "prompt" in body else body["messages"][0]["content"]
        usage = {
            "prompt_tokens": len(text.split()) * self.tokens_per_word,
            "completion_tokens": body["max_tokens"],
        }
        if not body.get("stream"):
            return JSONResponse({"choices": [{"text": "x"}], "usage": usage if self.usage else None})
        self.streamed += 1
        fault = self.fault if self.streamed % self.fault_every == 0 else "none"
        if self.most_running is not None and self.running >= self.most_running:
            fault = "429"
        if fault in ("429", "500"):
            return JSONResponse({"error": {"message": "told to fail"}}, int(fault))
        self.running += 1
        return StreamingResponse(self._stream(body, usage, fault), media_type="text/event-stream")

    async def _stream(self, body: dict[str, Any], usage: dict[str, int], fault: Fault) -> AsyncIterator[str]:
        try:
            async for event in self._events(body, usage, fault):
                yield event
        finally:
            self.running -= 1

    async def _events(self, body: dict[str, Any], usage: dict[str, int], fault: Fault) -> AsyncIterator[str]:
        chat = "messages" in body
        if chat:
            yield _event(
                {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
            )
        due = perf_counter()
        for index in range(body["max_tokens"]):
            due += self.itl_s + self.itl_each_s * (self.running - 1) if index else self.ttft_s
            await asyncio.sleep(max(0.0, due - perf_counter()))
            if self.last_without_text and index == body["max_tokens"] - 1:
                break
            part = {"delta": {"content": " word"}} if chat else {"text": " word"}
            yield _event({"choices": [part | {"finish_reason": None}]})
            if fault == "drop":
                raise ConnectionAbortedError("the mock drops this connection")
            if fault == "truncate":
                return
            if fault == "malformed":
                yield "data: {not JSON\n\n"
            if fault == "error_event":
                yield _event({"error": {"message": "told to fail", "code": 500}})
        yield _event({"choices": [{"text": "", "delta": {}, "finish_reason": "length"}]})
        if self.usage:
            yield _event({"choices": [], "usage": usage})
        yield "data: [DONE]\n\n"


def free_listener() -> socket.socket:
    """Opens a socket that listens on a free local port.

    It names its protocol: asyncio only then turns off Nagle's algorithm on the connections it
    accepts, without which the first token of an answer may wait for a delayed acknowledgement.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(256)
    return listener


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"
