"""S5 with --engine vllm: what stands before vLLM's application puts comments into streams that are silent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import httpx
import openai
import pytest
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lathe.serving.http import heartbeat
from lathe.serving.vllm.middleware import Answer
from support.other_server import serving

CHUNK = {
    "id": "c",
    "object": "chat.completion.chunk",
    "created": 0,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}],
}
EVENT = f"data: {json.dumps(CHUNK)}\n\n"


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "HEARTBEAT_S", 0.05)


def guarded(make: Callable[[Scope], ASGIApp], *, breaks_off: bool = False) -> ASGIApp:
    """An application whose answers pass as they do through the middleware; with `breaks_off`, ended by it."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        answer = Answer(receive, send)
        work = asyncio.ensure_future(make(scope)(scope, answer.receive, answer.send))
        if breaks_off:
            await asyncio.wait({work}, timeout=0.3)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await answer.break_off(scope)
        else:
            await work
        await answer.close()

    return application


def waits(_: Scope) -> ASGIApp:
    """As vLLM: the headers at once, then nothing until the engine has room."""

    async def events():
        await asyncio.sleep(0.4)
        yield EVENT
        await asyncio.sleep(0.2)
        yield EVENT + EVENT
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def test_s5_comments_stand_between_the_events_of_vllm() -> None:
    with (
        serving(guarded(waits)) as url,
        httpx.stream("POST", f"{url}/v1/chat/completions") as answer,
    ):
        text = "".join(answer.iter_text())
    events = text.split("\n\n")
    assert events[0] == ": waiting"
    assert [event for event in events if event and event != ": waiting"] == [
        *[EVENT.strip()] * 3,
        "data: [DONE]",
    ]
    assert events[-2:] == ["data: [DONE]", ""]


def test_s5_openais_client_reads_them() -> None:
    with (
        serving(guarded(waits)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client,
    ):
        stream = client.chat.completions.create(model="m", messages=[], stream=True)
        assert [chunk.choices[0].delta.content for chunk in stream] == ["x"] * 3


def test_s5_what_is_no_stream_of_events_is_left_alone() -> None:
    def slow(_: Scope) -> ASGIApp:
        async def lines():
            yield b"a"
            await asyncio.sleep(0.3)
            yield b"b"

        return StreamingResponse(lines(), media_type="application/octet-stream")

    with serving(guarded(slow)) as url:
        assert httpx.get(url).content == b"ab"
    with serving(guarded(lambda _: JSONResponse({"a": 1}))) as url:
        assert httpx.get(url).json() == {"a": 1}


def test_s5_a_stream_that_the_drain_ends_has_its_error_last() -> None:
    def silent(_: Scope) -> ASGIApp:
        async def events():
            await asyncio.sleep(60)
            yield EVENT

        return StreamingResponse(events(), media_type="text/event-stream")

    with serving(guarded(silent, breaks_off=True)) as url:
        text = httpx.get(url, timeout=30).text
    *comments, last, rest = text.split("\n\n")
    assert comments
    assert set(comments) == {": waiting"}
    assert (json.loads(last.removeprefix("data: "))["error"]["code"], rest) == ("unavailable", "")
