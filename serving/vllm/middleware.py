"""The ASGI middleware in front of vLLM's own application.

It requires a key on every route but the probes, reports *ready* only after a token was really generated,
counts
requests by how they end, answers 429 with Retry-After when the queue is full, and drains without cutting a
stream
silently.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import MutableMapping
from contextlib import AsyncExitStack
from typing import Any

import httpx
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lathe.serving.http.auth import OPEN_PATHS, RequireKey
from lathe.serving.http.cors import cross_origin
from lathe.serving.http.errors import RETRY_AFTER_S, ApiError, error_body, error_response
from lathe.serving.http.heartbeat import heartbeat
from lathe.serving.metrics.registry import Endpoint, Outcome
from lathe.serving.playground.pages import Playground, Setup
from lathe.serving.playground.upstream import COMPARE_KEY, Upstream
from lathe.serving.vllm.metrics import vllm_metrics
from lathe.serving.vllm.shared_state import Counts, ServedModelInfo, SharedState

ENDPOINTS: dict[str, Endpoint] = {
    "/v1/completions": "completions",
    "/v1/chat/completions": "chat",
    "/v1/responses": "responses",
}
WARM_UP_TOKENS = 8
"""More than one, so that a draft model runs as well."""
ENDING_POLL_S = 0.2

log = logging.getLogger("lathe.serving")


class GatewayMiddleware:
    """vLLM creates one for each of its API servers (`--middleware`); they share a `SharedState`."""

    def __init__(self, app: ASGIApp) -> None:
        state, metrics = SharedState.here(), vllm_metrics()
        if state is None or metrics is None:
            raise RuntimeError("this middleware is for the vLLM that `lathe serve` starts")
        self._state = state
        self._metrics = metrics
        self._served = state.served()
        self._counts = Counts(state)
        self._app = app
        self._ready = False
        self._playground = _playground(self._served)
        self._pages = {route.path for route in self._playground.routes} if self._playground else set()
        self._guarded: ASGIApp = self._route
        if self._served.key is not None:
            files = self._playground.open_paths if self._playground else frozenset()
            digest = bytes.fromhex(self._served.key)
            self._guarded = RequireKey(self._route, digest, {*OPEN_PATHS, *files})
        if self._served.origins:
            self._guarded = cross_origin(self._guarded, self._served.origins)
        self._ending = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._when_started(scope, send))
        elif scope["type"] == "http":
            await self._guarded(scope, receive, send)
        else:  # a web socket, which would pass by the key and the drain
            await send({"type": "websocket.close", "code": 1008})

    def _when_started(self, lifespan: Scope, send: Send) -> Send:
        async def watching(message: MutableMapping[str, Any]) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                for work in (self._warm_up(lifespan), self._watch_for_the_end()):
                    task = asyncio.create_task(work)
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

        return watching

    async def _warm_up(self, lifespan: Scope) -> None:
        """Requests tokens from the application behind this middleware, as a client would."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await self._app({**scope, "app": lifespan["app"]}, receive, send)

        body = {
            "model": self._served.model,
            "prompt": [0],
            "max_tokens": WARM_UP_TOKENS,
            "temperature": 0,
            "ignore_eos": True,
        }
        transport = httpx.ASGITransport(application)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://gate", timeout=None) as client:
                answer = await client.post("/v1/completions", json=body)
            generated = answer.json()["usage"]["completion_tokens"] if answer.status_code == 200 else 0
            failure = None if generated == WARM_UP_TOKENS else answer.text
        except Exception as error:  # whatever vLLM raises: it is told in the terminal, not lost in a task
            failure = repr(error)
        if failure is None:
            self._metrics.count_from_now()
            self._counts.set_ready()
        else:
            self._state.fail(f"the model loads but does not generate: {failure[:500]}")

    async def _watch_for_the_end(self) -> None:
        while not self._state.ending:
            await asyncio.sleep(ENDING_POLL_S)
        self._ending.set()

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/health/live":
            await JSONResponse({"status": "live"})(scope, receive, send)
        elif path in OPEN_PATHS:
            await self._probe(scope, receive, send)
        elif self._playground and path in self._pages:
            await self._playground.app(scope, receive, send)
        elif scope["method"] != "POST":
            await self._app(scope, receive, send)
        elif unavailable := self._unavailable():
            await error_response(unavailable)(scope, receive, send)
            self._count(path, "rejected", 0.0)
        else:
            await self._answer(scope, receive, send)

    async def _probe(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 200 from the first token of every API server until the drain, while vLLM's engine works."""
        if unavailable := self._unavailable():
            await error_response(unavailable)(scope, receive, send)
        else:
            await self._app({**scope, "path": "/health", "raw_path": b"/health"}, receive, send)

    def _unavailable(self) -> ApiError | None:
        if self._state.draining:
            return ApiError(503, "the server is stopping", code="unavailable")
        self._ready = self._ready or self._state.ready
        if not self._ready:
            return ApiError(503, "the server is starting", code="unavailable")
        return None

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = Answer(receive, send)
        arrived = time.perf_counter()
        self._counts.begin()
        work = asyncio.ensure_future(self._app(scope, answer.receive, answer.send))
        end = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait({work, end}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
                await answer.break_off(scope)
            await work
        except asyncio.CancelledError:
            work.cancel()
            if not self._ending.is_set():
                raise
        finally:
            end.cancel()
            await answer.close()
            self._counts.end()
            self._count(scope["path"], answer.outcome, time.perf_counter() - arrived)

    def _count(self, path: str, outcome: Outcome, seconds: float) -> None:
        if path in ENDPOINTS:
            self._metrics.request(ENDPOINTS[path], outcome, seconds)


def _playground(served: ServedModelInfo) -> Playground | None:
    if served.setup is None:
        return None
    upstream = Upstream(served.compare, os.environ.get(COMPARE_KEY)) if served.compare else None
    return Playground(Setup(**served.setup), upstream)


class Answer:
    """One answer as it passes through: how it began, whether it finished, whether the client still reads.

    While a stream is silent, comments are put between vLLM's events, each of which is one message.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._status = 0
        self._streams = self._complete = self._broken_off = self._client_gone = False
        self._beating = AsyncExitStack()

    async def receive(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._complete:
            self._client_gone = True
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            await self._send(self._begin(message))
            if self._streams:
                self._send = await self._beating.enter_async_context(heartbeat(self._send))
            return
        if not message.get("more_body", False):
            self._complete = True
            await self.close()
        await self._send(message)

    async def close(self) -> None:
        """Stops the comments."""
        await self._beating.aclose()

    def _begin(self, message: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Starts the answer; vLLM's 503 for a full queue becomes 429, on which clients retry sooner."""
        headers = list(message.get("headers", []))
        self._status = 429 if message["status"] == 503 else message["status"]
        if self._status == 429:
            headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
        self._streams = any(
            name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers
        )
        return {**message, "status": self._status, "headers": headers}

    async def break_off(self, scope: Scope) -> None:
        """Ends the answer at the end of the drain, with an error that the client sees if possible."""
        self._broken_off = True
        await self.close()
        error = ApiError(503, "the server has stopped before the answer was finished", code="unavailable")
        if not self._status:
            await error_response(error)(scope, self._receive, self._send)
        elif not self._complete:
            event = json.dumps(error_body(error.status, error.message, code=error.code))
            body = f"data: {event}\n\n".encode() if self._streams else b""
            await self._send({"type": "http.response.body", "body": body})

    @property
    def outcome(self) -> Outcome:
        if self._broken_off:
            return "error"
        if self._client_gone and not self._complete:
            return "client_disconnect"
        if self._status == 429:
            return "rejected"
        if 400 <= self._status < 500:
            return "invalid"
        return "ok" if self._complete and self._status < 400 else "error"
