"""One streamed request, timed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import httpx

from .load import Endpoint
from .sse import EventReader, MalformedStreamError

PATHS: dict[Endpoint, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


@dataclass(frozen=True)
class Target:
    """A server under test: base URL without `/v1`, the model's name, and the key it asks for."""

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


class RequestError(Exception):
    """A request that is counted as an error of `kind` and kept out of every percentile."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Sample:
    """What one request did. Times are seconds: `sent_s` from the start of the round, the others
    from the moment the request was sent. `chunk_s` holds one arrival per chunk that carried tokens;
    `closing_s` is the arrival of a last chunk without text, which may stand for a token or only for the end.
    With `ends_only` the chunks between the first and the last are not known.
    """

    sent_s: float
    late_s: float = 0.0
    chunk_s: list[float] = field(default_factory=list)
    end_s: float = 0.0
    prompt_tokens: int | None = None
    output_tokens: int = 0
    asked_tokens: int = 0
    closing_s: float | None = None
    ends_only: bool = False
    error_kind: str | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error_kind is None


def open_client() -> httpx.AsyncClient:
    """A client that never queues a request and never goes through a proxy."""
    unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(limits=unlimited, timeout=None, trust_env=False)


def request_body(model: str, prompt: str, output_tokens: int, endpoint: Endpoint) -> dict[str, Any]:
    """A greedy streamed request for exactly `output_tokens` tokens that reports its token counts."""
    asked: dict[str, Any] = (
        {"messages": [{"role": "user", "content": prompt}]} if endpoint == "chat" else {"prompt": prompt}
    )
    return asked | {
        "model": model,
        "max_tokens": output_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def timed_request(
    http: httpx.AsyncClient,
    target: Target,
    endpoint: Endpoint,
    body: dict[str, Any],
    start: float,
    limit_s: float,
) -> Sample:
    """Send one request and time its stream; a failure is recorded in the sample, never raised.

    `start` is the `perf_counter` reading at the start of the round.
    """
    sent = perf_counter()
    sample = Sample(sent_s=sent - start)
    try:
        async with asyncio.timeout(limit_s):
            await _stream(http, target, endpoint, body, sent, sample)
    except RequestError as failure:
        sample.error_kind, sample.error = failure.kind, str(failure)
    except TimeoutError:
        sample.error_kind, sample.error = "timeout", f"no complete answer within {limit_s:g} s"
    except MalformedStreamError as failure:
        sample.error_kind, sample.error = "malformed", str(failure)
    except (httpx.ConnectError, httpx.ConnectTimeout) as failure:
        sample.error_kind, sample.error = "connect", str(failure) or type(failure).__name__
    except httpx.HTTPError as failure:
        sample.error_kind, sample.error = "dropped", str(failure) or type(failure).__name__
    sample.end_s = perf_counter() - sent
    return sample


async def _stream(
    http: httpx.AsyncClient,
    target: Target,
    endpoint: Endpoint,
    body: dict[str, Any],
    sent: float,
    sample: Sample,
) -> None:
    reader, done = EventReader(), False
    headers = target.headers() | {"Accept-Encoding": "identity"}
    async with http.stream("POST", target.url + PATHS[endpoint], json=body, headers=headers) as response:
        if response.status_code != 200:
            text = (await response.aread())[:300].decode(errors="replace")
            raise RequestError(f"http_{response.status_code}", text)
        async for chunk in response.aiter_raw():
            arrived = perf_counter() - sent
            for data in reader.feed(chunk):
                done = done or data == "[DONE]"
                if data != "[DONE]":
                    _read_event(data, arrived, sample)
    if not done:
        raise RequestError("truncated", "the stream ended without [DONE]")
    if sample.closing_s is not None and len(sample.chunk_s) < sample.output_tokens:
        sample.chunk_s.append(sample.closing_s)
    if not sample.chunk_s:
        raise RequestError("no_tokens", "the stream ended without a token")
    sample.output_tokens = sample.output_tokens or len(sample.chunk_s)


def _read_event(data: str, arrived: float, sample: Sample) -> None:
    try:
        event = json.loads(data)
    except ValueError as error:
        raise MalformedStreamError(f"an event that is not JSON: {data[:80]!r}") from error
    if not isinstance(event, dict):
        raise MalformedStreamError(f"an event that is not a JSON object: {data[:80]!r}")
    if event.get("error"):
        raise RequestError("error_event", json.dumps(event["error"])[:300])
    try:
        for choice in event.get("choices") or ():
            if _carries_tokens(choice):
                sample.chunk_s.append(arrived)
            elif choice.get("finish_reason"):
                sample.closing_s = arrived
        if usage := event.get("usage"):
            sample.prompt_tokens = usage.get("prompt_tokens")
            sample.output_tokens = usage.get("completion_tokens") or 0
    except AttributeError as error:
        raise MalformedStreamError(f"an event of another shape: {data[:80]!r}") from error


def _carries_tokens(choice: dict[str, Any]) -> bool:
    """A chunk with text, or one without text that neither opens nor ends the answer: a token may
    have no text of its own yet (part of a UTF-8 character)."""
    delta = choice.get("delta") or {}
    if choice.get("text") or delta.get("content") or delta.get("reasoning_content"):
        return True
    empty = choice.get("text") == "" or delta.get("content") == ""
    return empty and "role" not in delta and choice.get("finish_reason") is None
