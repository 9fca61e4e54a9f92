"""Asks a server before it is loaded: whether it answers, which model it serves, how long a text is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urljoin

import httpx

from lathe.artefact.errors import UserError
from lathe.serving.loadtest.address import PATHS, Address, proxy_of, read_address
from lathe.serving.loadtest.client import Target, request_body
from lathe.serving.loadtest.dialect import REFUSED, Dialect
from lathe.serving.loadtest.load import Endpoint

ABSENT = (404, 405, 501)
OTHER: dict[Endpoint, Endpoint] = {"completions": "chat", "chat": "completions"}


async def reach(
    http: httpx.AsyncClient,
    url: str,
    model: str | None,
    api_key: str | None,
    extra: Mapping[str, Any] | None = None,
) -> Target:
    """Returns the target at `url`, with `model` or the first model it lists; `extra` goes into every body.

    Raises:
        UserError: nothing answers there, it redirects, the key is refused, or no model is listed.
    """
    address = read_address(url)
    dialect = Dialect(extra or {})
    if proxy := proxy_of(address.root):
        dialect.notes.append(
            f"asked through the proxy {proxy} of the environment, whose time is in all others"
        )
    target, answer = await _found(http, address, Target(address.root, model or "", api_key, dialect=dialect))
    if model:
        return target
    try:
        listed = answer.json()
        name = str((listed if isinstance(listed, list) else listed["data"])[0]["id"])
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{target.place('/models')} lists no model (status {answer.status_code})",
            "Name one with --model.",
        ) from error
    return _at(target, target.version, target.query, name)


async def _found(http: httpx.AsyncClient, address: Address, at: Target) -> tuple[Target, httpx.Response]:
    """Returns the target at the first version that lists models, or the likeliest, and the answer there."""
    tried = []
    for version in address.versions:
        target = _at(at, version, address.query, at.model)
        tried.append((target, await _models(http, target)))
        if tried[-1][1].status_code not in ABSENT:
            return tried[-1]
    return tried[0]


def _at(target: Target, version: str, query: str, model: str) -> Target:
    return Target(target.url, model, target.api_key, version, query, target.dialect)


async def _models(http: httpx.AsyncClient, target: Target) -> httpx.Response:
    place = target.place("/models")
    try:
        answer = await http.get(place, headers=target.headers(), timeout=10.0)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise UserError(
            f"No server answers at {target.url}{_through(target.url)} ({str(error) or type(error).__name__})",
            "Name the file with its CA in SSL_CERT_FILE."
            if "CERTIFICATE_VERIFY_FAILED" in str(error)
            else "Start one with `lathe serve DIR`, or correct the URL.",
        ) from error
    _not_elsewhere(answer, target, "/models")
    if answer.status_code in (401, 403):
        raise UserError(
            f"The server at {target.url} refuses the API key", "Give the right one with --api-key."
        )
    return answer


def _through(url: str) -> str:
    proxy = proxy_of(url)
    return f" through the proxy {proxy}" if proxy else ""


def _not_elsewhere(answer: httpx.Response, target: Target, path: str) -> None:
    """Refuses a redirect: followed every time, it would be a part of every latency.

    Raises:
        UserError: the server redirects.
    """
    if answer.is_redirect:
        place = urljoin(target.place(path), answer.headers["location"])
        there = place.partition("?")[0].rstrip("/").removesuffix(path)
        if there == target.place("").partition("?")[0]:
            return  # only a slash apart; what is asked of it later tells
        raise UserError(f"The server at {target.url} redirects to {place}", f"Load {there} if you trust it.")


def token_counter(
    http: httpx.AsyncClient, target: Target, endpoint: Endpoint, limit_s: float
) -> Callable[[str], Awaitable[int | None]]:
    """Returns a function that asks the server how many tokens a prompt has, by an answer of one token."""

    async def count(text: str) -> int | None:
        body = request_body(target.model, text, 1, endpoint)
        del body["stream"], body["stream_options"]
        answer = await _post(http, target, endpoint, body, limit_s)
        if answer.status_code in REFUSED and "stream" in answer.text.lower():
            return None  # a server that only streams
        if answer.status_code != 200:
            raise UserError(
                f"The server at {target.url} answers {answer.status_code} to a first request: "
                f"{answer.text[:300]}",
                f"It may have the other API: --endpoint {OTHER[endpoint]}."
                if answer.status_code in ABSENT
                else "",
            )
        try:
            return int(answer.json()["usage"]["prompt_tokens"])
        except (ValueError, LookupError, TypeError):
            return None

    return count


async def _post(
    http: httpx.AsyncClient, target: Target, endpoint: Endpoint, body: dict[str, Any], limit_s: float
) -> httpx.Response:
    """Posts a body without the fields that the server refuses, and returns the answer.

    Raises:
        UserError: there is none.
    """
    while True:
        shaped = target.dialect.shaped(body)
        try:
            answer = await http.post(
                target.place(PATHS[endpoint]), json=shaped, headers=target.headers(), timeout=limit_s
            )
        except httpx.HTTPError as error:
            raise UserError(
                f"The server at {target.url} failed on a first request ({str(error) or type(error).__name__})"
            ) from error
        _not_elsewhere(answer, target, PATHS[endpoint])
        if answer.status_code not in REFUSED or not target.dialect.learn(body, shaped, answer.text):
            return answer
