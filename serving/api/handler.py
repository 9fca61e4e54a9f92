"""Turns a prepared request into its answer: streamed or whole, cancelled on disconnect, counted once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from lathe.serving.api.answer import Answer
from lathe.serving.api.answering import answering
from lathe.serving.api.generation import Generation
from lathe.serving.api.obfuscation import obfuscated
from lathe.serving.api.prepared_request import PreparedRequest
from lathe.serving.api.schemas import GenerationBody
from lathe.serving.api.service import Service
from lathe.serving.backend import RequestOutput
from lathe.serving.http.body import read_model
from lathe.serving.http.disconnect import ClientGoneError, unless_disconnected
from lathe.serving.http.errors import CLIENT_CLOSED, ApiError
from lathe.serving.http.heartbeat import heartbeat
from lathe.serving.http.limits import Limits
from lathe.serving.metrics.registry import Endpoint, Outcome

Body = TypeVar("Body", bound=GenerationBody)


class RequestRecorder:
    """Counts how one request ended; only the first end counts.

    Attributes:
        arrived: when it arrived, by `time.perf_counter`.
        answered_by: the model that answers it, or would.
    """

    def __init__(self, service: Service, endpoint: Endpoint) -> None:
        self.arrived = time.perf_counter()
        self.answered_by = answering(service, service.name).service
        self._endpoint = endpoint
        self._counted = False

    def end(self, outcome: Outcome) -> None:
        if not self._counted:
            self._counted = True
            self.answered_by.metrics.request(self._endpoint, outcome, time.perf_counter() - self.arrived)


class TimeLimit:
    """Limits the time for one answer, over all its parts."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._end = None if seconds is None else asyncio.get_running_loop().time() + seconds

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs the body within the time that is left.

        Raises:
            ApiError: 504 when the time is over.
        """
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
    prepare: Callable[[Service, Body, float], Awaitable[PreparedRequest]],
) -> Response:
    """Answers a generation request.

    Args:
        request: the HTTP request.
        endpoint: its name in the metrics.
        model: the pydantic model of its body.
        prepare: checks the body and makes the sequences; it gets the time of arrival as well.

    Raises:
        ApiError: the request is refused or failed.
    """
    service: Service = request.app.state.service
    recorder = RequestRecorder(service, endpoint)
    limit = TimeLimit(service.request_timeout)
    try:
        async with limit.running():
            limits = Limits(service.backend.capacity, service.backend.max_length)
            body = await read_model(request, model, limits)
            service.check_model(body.model)
            recorder.answered_by = answering(service, body.model).service
            service.check_known(body.logit_bias, "logit_bias")
            service.check_known(body.stop_token_ids, "stop_token_ids")
            body.take_defaults(service.defaults)
            prepared = await prepare(service, body, recorder.arrived)
            answered = answering(service, body.model, prepared.requests)
            recorder.answered_by = answered.service
            generation = Generation(service, answered.requests)
            writer = prepared.writer(answered.service)
            if body.stream:
                stream = EventStream(generation, writer, recorder, limit, obfuscate=body.obfuscate)
                stream.headers.update(answered.headers)
                return stream
            response = await _whole(request, generation, writer, recorder)
            response.headers.update(answered.headers)
            return response
    except ApiError as error:
        recorder.end(_outcome(error.status))
        raise
    except ClientGoneError:
        recorder.end("client_disconnect")
        return Response(status_code=CLIENT_CLOSED)
    except BaseException:
        recorder.end("error")
        raise


async def _whole(
    request: Request, generation: Generation, writer: Answer, recorder: RequestRecorder
) -> Response:
    try:
        outputs = await unless_disconnected(request.receive, _collect(generation))
    finally:
        generation.cancel()
    response = await asyncio.to_thread(lambda: JSONResponse(writer.whole(outputs)))
    recorder.end("ok")
    return response


async def _collect(generation: Generation) -> list[RequestOutput]:
    outputs = []
    async for output in generation:
        if output.error is not None:
            raise ApiError(output.status, output.error)
        outputs.append(output)
    return outputs


class EventStream(Response):
    """Sends server-sent events.

    An error after the start is reported by the answer's own events, and the stream then lacks its usual end.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        generation: Generation,
        writer: Answer,
        recorder: RequestRecorder,
        limit: TimeLimit,
        *,
        obfuscate: bool,
    ) -> None:
        """Creates the response; `obfuscate` hides the sizes of the answer's parts."""
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._generation = generation
        self._writer = writer
        self._recorder = recorder
        self._limit = limit
        self._obfuscate = obfuscate
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
            self._recorder.end("client_disconnect")
        finally:
            self._generation.cancel()
            self._recorder.end("error")

    async def _send_events(self, send: Send) -> None:
        for opening in self._writer.opening():
            await self._send_event(send, opening)
        async for output in self._generation:
            if output.error is not None:
                raise ApiError(output.status, output.error)
            for event in self._writer.events(output):
                await self._send_event(send, event)
        for closing in self._writer.closing():
            await self._send_event(send, closing)
        if self._gone:  # what is sent after that is dropped without a word
            raise ClientGoneError
        self._recorder.end("ok")
        await send({"type": "http.response.body", "body": self._writer.terminator})

    async def _end_with(self, send: Send, error: ApiError) -> None:
        self._recorder.end(_outcome(error.status))
        for event in self._writer.failure(error):
            await self._send_event(send, event)
        await send({"type": "http.response.body", "body": b""})

    async def _send_event(self, send: Send, document: dict[str, Any]) -> None:
        if self._obfuscate and self._writer.is_delta(document):
            document = obfuscated(document)
        data = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        body = f"{self._writer.head_of(document)}data: {data}\n\n"
        await send({"type": "http.response.body", "body": body.encode(), "more_body": True})


def _outcome(status: int) -> Outcome:
    named: dict[int, Outcome] = {
        429: "rejected",
        503: "rejected",
        CLIENT_CLOSED: "client_disconnect",
        504: "timeout",
    }
    return named.get(status, "invalid" if status < 500 else "error")
