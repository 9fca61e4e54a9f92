"""One streamed request, timed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import httpx

from lathe.artefact.errors import UserError
from lathe.serving.loadtest.address import PATHS
from lathe.serving.loadtest.answer import AnswerReader
from lathe.serving.loadtest.dialect import REFUSED, Dialect
from lathe.serving.loadtest.load import Endpoint
from lathe.serving.loadtest.sample import RequestError, Sample
from lathe.serving.loadtest.sse import EventReader, MalformedStreamError


@dataclass(frozen=True)
class Target:
    """A server under test.

    Attributes:
        url: scheme, host and path, up to the version of its API.
        model: the model's name.
        api_key: the key that it asks for.
        version: the version in the path of its API.
        query: what follows a question mark in all its addresses.
        dialect: the fields that it accepts.
    """

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    version: str = "/v1"
    query: str = ""
    dialect: Dialect = field(default_factory=Dialect, compare=False)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def place(self, path: str) -> str:
        """Returns the address of a path of its API."""
        return f"{self.url}{self.version}{path}{'?' if self.query else ''}{self.query}"


class _RefusedError(Exception):
    """The server refused the request, which has to be sent again without the field that it names."""


def open_client(*, proxies: bool) -> httpx.AsyncClient:
    """Opens a client that never queues a request and trusts the CAs of the environment (SSL_CERT_FILE).

    Args:
        proxies: use the environment's proxies, except to this machine.

    Raises:
        UserError: a proxy or a file of the environment cannot be used.
    """
    unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    here: dict[str, httpx.AsyncBaseTransport | None] = {
        f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")
    }
    try:
        trusted = httpx.create_ssl_context()
        return httpx.AsyncClient(
            limits=unlimited,
            timeout=None,
            verify=trusted,
            trust_env=proxies,
            mounts=here if proxies else None,
        )
    except (ImportError, ValueError, OSError) as error:
        raise UserError(
            f"The environment's proxy or CA cannot be used: {error}",
            "Correct HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE, or name the host in NO_PROXY.",
        ) from error


def request_body(model: str, prompt: str, output_tokens: int, endpoint: Endpoint) -> dict[str, Any]:
    """Returns a greedy streamed request for exactly `output_tokens` tokens that reports its token counts."""
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
    """Sends one request and times its stream; a failure is recorded in the sample, never raised.

    Where the server refuses a field that can be left out, the request is sent again without it, and timed
    from then on.

    Args:
        http: sends it.
        target: the server.
        endpoint: which of its endpoints.
        body: the request, as `request_body` makes it.
        start: the `perf_counter` reading at the start of the round.
        limit_s: seconds that the answer may take.
    """
    while True:
        sent = perf_counter()
        sample = Sample(sent_s=sent - start)
        try:
            async with asyncio.timeout(limit_s):
                await _stream(http, target, endpoint, body, sent, sample)
        except _RefusedError:
            continue
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
    events, answer = EventReader(), AnswerReader(sample)
    headers = target.headers() | {"Accept-Encoding": "identity"}
    shaped = target.dialect.shaped(body)
    async with http.stream("POST", target.place(PATHS[endpoint]), json=shaped, headers=headers) as response:
        if response.status_code != 200:
            text = (await response.aread()).decode(errors="replace")
            if response.status_code in REFUSED and target.dialect.learn(body, shaped, text):
                raise _RefusedError
            place = response.headers.get("location")
            raise RequestError(f"http_{response.status_code}", f"to {place}" if place else text[:300])
        async for chunk in response.aiter_raw():
            arrived = perf_counter() - sent
            for data in events.feed(chunk):
                answer.event(data, arrived)
    answer.finish()
