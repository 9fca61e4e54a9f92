"""Carries the outputs of one call's sequences from the engine's thread to the event loop."""

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
    run_callbacks,
)


@dataclass(frozen=True, slots=True)
class EventLoopDispatcher:
    """Runs callbacks on an event loop, which it wakes once per step of the engine.

    Each time the loop is woken it takes the interpreter, and the engine waits.
    """

    loop: asyncio.AbstractEventLoop

    def __call__(self, batch: OutputBatch) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self.loop.call_soon_threadsafe(run_callbacks, batch)


class Generation:
    """The sequences of one call in the backend; iterating over it gives their outputs."""

    def __init__(self, service: Service, requests: Sequence[GenerationRequest]) -> None:
        """Adds the requests to the backend.

        Raises:
            ApiError: 429 or 503 when the backend accepts nothing now.
        """
        self.requests = requests
        self._outputs: asyncio.Queue[RequestOutput] = asyncio.Queue()
        dispatcher = EventLoopDispatcher(asyncio.get_running_loop())
        try:
            self._handle = service.backend.add_requests(requests, self._outputs.put_nowait, dispatcher)
        except (QueueFullError, DrainingError) as error:
            raise refused(error) from None

    def cancel(self) -> None:
        """Frees the slots at once; has no effect at the end."""
        self._handle.cancel()

    async def __aiter__(self) -> AsyncIterator[RequestOutput]:
        open_sequences = len(self.requests)
        while open_sequences:
            output = await self._outputs.get()
            open_sequences -= output.finished
            yield output
