"""One call's sequences in flight: chunks from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.types import Receive

from serving.api.service import Service, refused
from serving.engines.base import Chunk, DrainingError, GenerationRequest, Mail, NoRoomError, deliver

T = TypeVar("T")


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class Hop:
    """From the engine's thread to that of an event loop, once for a step of the engine: each time the loop is
    woken it takes the interpreter, and the engine waits."""

    loop: asyncio.AbstractEventLoop

    def __call__(self, mail: Mail) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self.loop.call_soon_threadsafe(deliver, mail)


class Generation:
    """Submitted sequences; iterate over their chunks, and cancel what is not needed any more."""

    def __init__(self, service: Service, requests: Sequence[GenerationRequest]) -> None:
        """Raises ApiError 429 or 503 when the backend takes nothing now."""
        self.requests = requests
        self._chunks: asyncio.Queue[Chunk] = asyncio.Queue()
        over = Hop(asyncio.get_running_loop())
        try:
            self._ticket = service.backend.submit(requests, self._chunks.put_nowait, over)
        except (NoRoomError, DrainingError) as error:
            raise refused(error) from None

    def cancel(self) -> None:
        """Free the slots at once; harmless at the end."""
        self._ticket.cancel()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        open_sequences = len(self.requests)
        while open_sequences:
            chunk = await self._chunks.get()
            open_sequences -= chunk.last
            yield chunk


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, or ClientGoneError as soon as the client hangs up."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        for pending in (task, watcher):
            pending.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
