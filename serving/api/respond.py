"""From a prepared call to its answer: streamed or whole, watched for hang-ups, counted once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from serving.api.body import read_model
from serving.api.errors import CLIENT_CLOSED, ApiError, error_body
from serving.api.generation import ClientGoneError, Generation, unless_disconnected
from serving.api.heartbeat import heartbeat
from serving.api.limits import Limits
from serving.api.schemas import GenerationBody
from serving.api.service import Service
from serving.api.writers import Writer
from serving.engines.base import Chunk, GenerationRequest
from serving.metrics import Endpoint, Outcome

Body = TypeVar("Body", bound=GenerationBody)


@dataclass(frozen=True, slots=True)
class Call:
    """A checked call: its sequences and how the answer is written."""

    requests: Sequence[GenerationRequest]
    writer: Writer


class Tally:
    """Counts how one request ended; only the first end counts."""

    def __init__(self, service: Service, endpoint: Endpoint) -> None:
        self.arrived = time.perf_counter()
        self._service = service
        self._endpoint = endpoint
        self._counted = False

    def end(self, outcome: Outcome) -> None:
        if not self._counted:
            self._counted = True
            self._service.metrics.request(self._endpoint, outcome, time.perf_counter() - self.arrived)


class TimeLimit:
    """What is left of the time for one answer, over all its parts."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._end = None if seconds is None else asyncio.get_running_loop().time() + seconds

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Raises ApiError 504 when the time is over."""
        try:
            async with asyncio.timeout_at(self._end):
                yield
        except TimeoutError:
            message = f"the answer was not complete within {self._seconds:g} s"
            raise ApiError(504, message, code="timeout") from None


async def respond(
    request: Request,
    endpoint: Endpoint,
    model: type[Body],
    prepare: Callable[[Service, Body, float], Awaitable[Call]],
) -> Response:
    """Answer a generation request. Raises ApiError."""
    service: Service = request.app.state.service
    tally = Tally(service, endpoint)
    limit = TimeLimit(service.request_timeout)
    try:
        async with limit.running():
            limits = Limits(service.backend.capacity, service.backend.max_length)
            body = await read_model(request, model, limits)
            service.check_model(body.model)
            service.check_biases(list(body.logit_bias))
            call = await prepare(service, body, tally.arrived)
            generation = Generation(service, call.requests)
            if body.stream:
                return EventStream(generation, call.writer, tally, limit)
            return await _whole(request, generation, call.writer, tally)
    except ApiError as error:
        tally.end(_outcome(error.status))
        raise
    except ClientGoneError:
        tally.end("client_disconnect")
        return Response(status_code=CLIENT_CLOSED)
    except BaseException:
        tally.end("error")
        raise


async def _whole(request: Request, generation: Generation, writer: Writer, tally: Tally) -> Response:
    try:
        chunks = await unless_disconnected(request.receive, _collect(generation))
    finally:
        generation.cancel()
    response = await asyncio.to_thread(lambda: JSONResponse(writer.whole(chunks)))
    tally.end("ok")
    return response


async def _collect(generation: Generation) -> list[Chunk]:
    chunks = []
    async for chunk in generation:
        if chunk.error is not None:
            raise ApiError(chunk.status, chunk.error)
        chunks.append(chunk)
    return chunks


class EventStream(Response):
    """Server-sent events. An error after the start is an event, and the stream then ends without [DONE]."""

    media_type = "text/event-stream"

    def __init__(self, generation: Generation, writer: Writer, tally: Tally, limit: TimeLimit) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._generation = generation
        self._writer = writer
        self._tally = tally
        self._limit = limit
        self._gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        async def watched() -> Message:
            message = await receive()
            self._gone = self._gone or message["type"] == "http.disconnect"
            return message

        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            async with self._limit.running(), heartbeat(send) as alive:
                await unless_disconnected(watched, self._send_events(alive))
        except ApiError as error:
            self._generation.cancel()  # its slots are free while the client reads why
            await self._end_with(send, error)
        except ClientGoneError:
            self._tally.end("client_disconnect")
        finally:
            self._generation.cancel()
            self._tally.end("error")

    async def _send_events(self, send: Send) -> None:
        for opening in self._writer.opening():
            await _send_event(send, opening)
        async for chunk in self._generation:
            if chunk.error is not None:
                raise ApiError(chunk.status, chunk.error)
            await _send_event(send, self._writer.event(chunk))
        for closing in self._writer.closing():
            await _send_event(send, closing)
        if self._gone:  # what is sent after that is dropped without a word
            raise ClientGoneError
        self._tally.end("ok")
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _end_with(self, send: Send, error: ApiError) -> None:
        self._tally.end(_outcome(error.status))
        await _send_event(send, error_body(error.status, error.message, error.param, error.code))
        await send({"type": "http.response.body", "body": b""})


def _outcome(status: int) -> Outcome:
    named: dict[int, Outcome] = {
        429: "rejected",
        503: "rejected",
        CLIENT_CLOSED: "client_disconnect",
        504: "timeout",
    }
    return named.get(status, "invalid" if status < 500 else "error")


async def _send_event(send: Send, document: dict[str, Any]) -> None:
    data = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})
