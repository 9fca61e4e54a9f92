"""Comment lines in a stream of server-sent events that has nothing to say, so that whoever waits, and every
proxy between, knows that it is alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Message, Send

HEARTBEAT_S = 15.0
"""Of silence; proxies commonly close a connection after 30 s or 60 s of it."""
COMMENT: Message = {"type": "http.response.body", "body": b": waiting\n\n", "more_body": True}
"""Readers of event streams skip it, by the standard."""


@asynccontextmanager
async def heartbeat(send: Send) -> AsyncIterator[Send]:
    """A `send` for whole events; while the body runs, `HEARTBEAT_S` without one bring a comment."""
    every, loop = HEARTBEAT_S, asyncio.get_running_loop()
    last = loop.time()

    async def noted(message: Message) -> None:
        nonlocal last
        await send(message)
        last = loop.time()

    async def beat() -> None:
        while True:
            left = last + every - loop.time()
            await (noted(COMMENT) if left <= 0 else asyncio.sleep(left))

    beating = asyncio.create_task(beat())
    try:
        yield noted
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
