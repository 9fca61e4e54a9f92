"""What a browser is told before it lets a page of another origin call."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from lathe.artefact.errors import UserError
from lathe.serving.http.cors import check_origins
from support.tiny_server import NAME, Running, running

PAGE = "https://chat.example.com"
BODY = {"model": NAME, "prompt": "x", "max_tokens": 1}


def preflight(server: Running, origin: str = PAGE) -> httpx.Response:
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    }
    return httpx.options(f"{server.url}/v1/completions", headers=asked)


def test_a_named_origin_calls_with_its_key_after_a_preflight_without(artefact_dir: Path) -> None:
    with running(artefact_dir, api_key="secret", allowed_origins=[PAGE]) as server:
        allowed = preflight(server)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == PAGE
        assert "POST" in allowed.headers["access-control-allow-methods"]
        assert "authorization" in allowed.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in allowed.headers
        for key, status in (("secret", 200), ("guess", 401)):
            headers = {"origin": PAGE, "authorization": f"Bearer {key}"}
            answer = httpx.post(f"{server.url}/v1/completions", headers=headers, json=BODY)
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert "retry-after" in answer.headers["access-control-expose-headers"]


def test_other_origins_are_not_named_in_any_answer(artefact_dir: Path) -> None:
    with running(artefact_dir, api_key="secret", allowed_origins=[PAGE]) as server:
        for origin in ("https://evil.example", "null", f"{PAGE}.evil.example"):
            refused = preflight(server, origin)
            assert refused.status_code == 400
            assert "access-control-allow-origin" not in refused.headers
        headers = {"origin": "https://evil.example", "authorization": "Bearer secret"}
        answer = httpx.get(f"{server.url}/v1/models", headers=headers)
        assert "access-control-allow-origin" not in answer.headers


def test_without_the_option_no_page_may_call(artefact_dir: Path) -> None:
    with running(artefact_dir) as server:
        refused = preflight(server)
        assert refused.status_code == 405
        assert refused.json()["error"]["type"] == "invalid_request_error"
        answer = httpx.get(f"{server.url}/v1/models", headers={"origin": PAGE})
        for response in (refused, answer):
            assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origin", [PAGE, "http://localhost:3000", "http://[::1]:8080", "*"])
def test_origins_that_browsers_send(origin: str) -> None:
    check_origins([origin])


@pytest.mark.parametrize("wrong", ["", "chat.example.com", f"{PAGE}/", "file:///x", "https://Chat.example"])
def test_what_is_no_origin_is_refused(wrong: str) -> None:
    with pytest.raises(UserError, match="is not an origin"):
        check_origins([wrong])
