"""Sends comment lines while a stream of server-sent events is silent.

They show the client, and every proxy in between, that the stream is alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Message, Send

HEARTBEAT_S = 15.0
"""Seconds of silence before a comment; proxies commonly close a connection after 30 s or 60 s."""
COMMENT: Message = {"type": "http.response.body", "body": b": waiting\n\n", "more_body": True}
"""A comment, which readers of event streams skip by the standard."""


@asynccontextmanager
async def heartbeat(send: Send) -> AsyncIterator[Send]:
    """Yields a `send` for whole events; while the body runs, a comment follows `HEARTBEAT_S` without one."""
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
