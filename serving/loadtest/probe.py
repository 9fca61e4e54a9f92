"""Questions put to a server before it is loaded: is it there, what does it serve, how long is a text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx

from compressor.errors import UserError

from .client import PATHS, Target, request_body
from .load import Endpoint


async def reach(http: httpx.AsyncClient, url: str, model: str | None, api_key: str | None) -> Target:
    """The target at `url`, serving `model` or else the first model it lists.

    Raises:
        UserError: if nothing answers there, the key is refused, or no model is listed.
    """
    base = url.rstrip("/").removesuffix("/v1")
    target = Target(base, model or "", api_key)
    try:
        answer = await http.get(f"{base}/v1/models", headers=target.headers(), timeout=10.0)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(
            f"No server answers at {base} ({str(error) or type(error).__name__})",
            "Start one with `lathe serve DIR`, or correct the URL.",
        ) from error
    if answer.status_code in (401, 403):
        raise UserError(f"The server at {base} refuses the API key", "Give the right one with --api-key.")
    if model:
        return target
    try:
        listed = str(answer.json()["data"][0]["id"])
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{base}/v1/models lists no model (status {answer.status_code})", "Name one with --model."
        ) from error
    return Target(base, listed, api_key)


def token_counter(
    http: httpx.AsyncClient, target: Target, endpoint: Endpoint, limit_s: float
) -> Callable[[str], Awaitable[int | None]]:
    """A function that asks the server how many tokens a prompt is, by one answer of one token."""

    async def count(text: str) -> int | None:
        body = request_body(target.model, text, 1, endpoint)
        del body["stream"], body["stream_options"]
        try:
            answer = await http.post(
                target.url + PATHS[endpoint], json=body, headers=target.headers(), timeout=limit_s
            )
        except httpx.HTTPError as error:
            raise UserError(
                f"The server at {target.url} failed on a first request ({str(error) or type(error).__name__})"
            ) from error
        if answer.status_code != 200:
            raise UserError(
                f"The server at {target.url} answers {answer.status_code} to a first request: "
                f"{answer.text[:300]}"
            )
        try:
            return int(answer.json()["usage"]["prompt_tokens"])
        except (ValueError, LookupError, TypeError):
            return None

    return count
