"""One call's sequences in flight: chunks from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from lathe.serving.api.service import Service, refused
from lathe.serving.backend import (
    DrainingError,
    GenerationRequest,
    OutputBatch,
    QueueFullError,
    RequestOutput,
    deliver,
)


@dataclass(frozen=True, slots=True)
class EventLoopDispatcher:
    """From the engine's thread to that of an event loop, once for a step of the engine: each time the loop is
    woken it takes the interpreter, and the engine waits.
    """

    loop: asyncio.AbstractEventLoop

    def __call__(self, mail: OutputBatch) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self.loop.call_soon_threadsafe(deliver, mail)


class Generation:
    """Submitted sequences; iterate over their chunks, and cancel what is not needed any more."""

    def __init__(self, service: Service, requests: Sequence[GenerationRequest]) -> None:
        """Raises ApiError 429 or 503 when the backend takes nothing now."""
        self.requests = requests
        self._chunks: asyncio.Queue[RequestOutput] = asyncio.Queue()
        over = EventLoopDispatcher(asyncio.get_running_loop())
        try:
            self._ticket = service.backend.submit(requests, self._chunks.put_nowait, over)
        except (QueueFullError, DrainingError) as error:
            raise refused(error) from None

    def cancel(self) -> None:
        """Free the slots at once; harmless at the end."""
        self._ticket.cancel()

    async def __aiter__(self) -> AsyncIterator[RequestOutput]:
        open_sequences = len(self.requests)
        while open_sequences:
            chunk = await self._chunks.get()
            open_sequences -= chunk.last
            yield chunk
