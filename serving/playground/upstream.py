"""The server that the playground compares with, reached through this one.

The operator names it when the server starts. A browser cannot: it asks for one of four fixed paths here, so
that nobody can send this server to other addresses. Keys do not mix: what a browser sends as its key stays
here, and the compared server's own key never leaves this process for a browser.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from lathe.artefact.errors import UserError
from lathe.serving.http.body import read_json
from lathe.serving.http.disconnect import ClientGoneError, unless_disconnected
from lathe.serving.http.errors import CLIENT_CLOSED, ApiError
from lathe.serving.options import ServeOptions

PREFIX = "/compare"
COMPARE_KEY = "LATHE_COMPARE_API_KEY"
POSTS = ("/v1/chat/completions", "/v1/completions")
GETS = ("/v1/models", "/metrics")
TOLD = ("content-type", "x-lathe-subnet", "x-lathe-subnet-reason")
"""Headers of an answer that the page gets."""
TIMEOUT = httpx.Timeout(600.0, connect=5.0)
"""Seconds of silence, and until the connection is made."""


class Upstream:
    """One other OpenAI-compatible server."""

    def __init__(self, url: str, key: str | None) -> None:
        """Creates a client of the server.

        Raises:
            UserError: the URL is not the address of a server.
        """
        self._base = base_url(url)
        self._headers = {"accept-encoding": "identity"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {key}"
        self._tls = httpx.create_ssl_context(trust_env=False)

    @property
    def routes(self) -> list[Route]:
        asked = [(path, "POST") for path in POSTS] + [(path, "GET") for path in GETS]
        return [Route(PREFIX + path, self._forward, methods=[method]) for path, method in asked]

    async def _forward(self, request: Request) -> Response:
        """Forwards a request and streams the answer as it arrives.

        Raises:
            ApiError: the other server cannot be reached.
        """
        headers, content = self._headers, None
        if request.method == "POST":
            content = await read_json(request)
            headers = {**headers, "content-type": "application/json"}
        path = request.scope["path"].removeprefix(PREFIX)
        client = httpx.AsyncClient(verify=self._tls, timeout=TIMEOUT, trust_env=False)
        question = client.build_request(request.method, self._base + path, headers=headers, content=content)
        try:
            answer = await unless_disconnected(request.receive, client.send(question, stream=True))
            if answer.is_redirect:
                raise _unreachable("answers with a redirect, which is not followed")
        except httpx.HTTPError as error:
            await client.aclose()
            raise _unreachable(f"does not answer: {error or type(error).__name__}") from None
        except ClientGoneError:
            await client.aclose()
            return Response(status_code=CLIENT_CLOSED)
        except BaseException:
            await client.aclose()
            raise
        told = {"content-type": "application/octet-stream"}
        told |= {name: answer.headers[name] for name in TOLD if name in answer.headers}
        return StreamingResponse(_body(client, answer), answer.status_code, told)


def check_compare(options: ServeOptions) -> None:
    """Checks that `--compare` names a server, and that there is a page to compare on.

    Raises:
        UserError: it is not so.
    """
    if options.compare is None:
        return
    if not options.playground:
        raise UserError("--compare is for the playground, and --no-playground is given", "Give one of them.")
    base_url(options.compare)


async def _body(client: httpx.AsyncClient, answer: httpx.Response) -> AsyncIterator[bytes]:
    """Yields the answer; closed with the reader, so that the other server stops, too."""
    try:
        async for part in answer.aiter_raw():
            yield part
    except httpx.HTTPError:
        return  # the stream ends without [DONE], which its reader sees
    finally:
        await answer.aclose()
        await client.aclose()


def base_url(text: str) -> str:
    """Returns `http://host:port`, from an address with or without `/v1`.

    Raises:
        UserError: it is not the address of a server.
    """
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise UserError(f"--compare {text}: {error}") from None
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
        raise UserError(f"--compare {text} is not the address of a server", "Write it like http://host:8001.")
    return str(url).rstrip("/").removesuffix("/v1")


def _unreachable(what: str) -> ApiError:
    return ApiError(502, f"the server to compare with {what}", code="compare_unreachable")
