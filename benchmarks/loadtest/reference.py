"""A server that streams in every form and keeps its own time, started as `serving/loadtest/servers.py` does.

A model is a form. `GET /clock/MODEL` tells, of every answer of it: seconds from the request to the first
chunk with tokens, and between two tokens.

python -m benchmarks.loadtest.reference TTFT_MS ITL_MS DIRECTORY --port 0 --json
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from time import perf_counter

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from benchmarks.loadtest.forms import FORMS
from lathe.serving.loadtest.mock import free_listener


@dataclass
class Reference:
    """Tokens are generated when they are due, and sent as the form says."""

    ttft_s: float
    itl_s: float
    clock: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._answer, methods=["POST"]),
                Route("/v1/completions", self._answer, methods=["POST"]),
                Route("/clock/{model}", self._clock),
            ]
        )

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in FORMS]})

    async def _clock(self, request: Request) -> Response:
        return JSONResponse(self.clock[request.path_params["model"]])

    async def _answer(self, request: Request) -> Response:
        arrived, body = perf_counter(), await request.json()
        if not body.get("stream"):
            return JSONResponse({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}})
        return StreamingResponse(
            self._stream(body["model"], body["max_tokens"], arrived), media_type="text/event-stream"
        )

    async def _stream(self, model: str, tokens: int, arrived: float) -> AsyncIterator[bytes]:
        generated: list[float] = []
        first_sent = 0.0
        for number, raw in FORMS[model].pieces(tokens):
            while len(generated) < number:
                due = arrived + self.ttft_s + len(generated) * self.itl_s
                await asyncio.sleep(max(0.0, due - perf_counter()))
                generated.append(perf_counter())
            if generated and not first_sent:
                first_sent = perf_counter()
            yield raw
            await asyncio.sleep(0.001 if number == len(generated) else 0)  # a packet of its own
        pace = (generated[-1] - generated[0]) / (len(generated) - 1)
        self.clock[model].append({"ttft_s": first_sent - arrived, "tpot_s": pace})


def main() -> None:
    ttft_ms, itl_ms = map(float, sys.argv[1:3])
    listener = free_listener()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    print(json.dumps({"event": "ready", "url": url, "model": next(iter(FORMS))}), flush=True)
    app = Reference(ttft_ms / 1e3, itl_ms / 1e3).app()
    uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", lifespan="off")).run(
        sockets=[listener]
    )


if __name__ == "__main__":
    main()
