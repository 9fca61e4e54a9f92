"""A uvicorn server that warms up before it is ready and finishes what it began before it stops."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn

from lathe.artefact.errors import UserError
from lathe.serving.api.app import create_app
from lathe.serving.api.service import Service
from lathe.serving.http.socket import GRACEFUL_SHUTDOWN_S
from lathe.serving.http.timeouts import RECEIVE_TIMEOUT_S, timed
from lathe.serving.options import KEEP_ALIVE_S, WRITE_TIMEOUT_S
from lathe.serving.playground.pages import Playground

HEADER_LIMIT = 32 * 1024

log = logging.getLogger("lathe.serving")


class Server(uvicorn.Server):
    """Stops in three steps on SIGTERM or SIGINT: refuses with 503, finishes or ends what runs, closes.

    A second signal skips the waiting.
    """

    def __init__(
        self,
        service: Service,
        *,
        api_key: str | None = None,
        allowed_origins: Sequence[str] = (),
        playground: Playground | None = None,
        drain_timeout: float = 30.0,
        write_timeout: float = WRITE_TIMEOUT_S,
        receive_timeout: float = RECEIVE_TIMEOUT_S,
        keep_alive: float = KEEP_ALIVE_S,
    ) -> None:
        """Creates the server; all times are in seconds.

        Args:
            service: what the routes work with.
            api_key: required of clients, if given.
            allowed_origins: web pages that may call from a browser.
            playground: the page at `/`, if there is one.
            drain_timeout: the time that running requests have to finish by themselves.
            write_timeout: how long a reader may block.
            receive_timeout: the time for a request to arrive.
            keep_alive: how long a connection may wait for its next request.
        """
        super().__init__(
            uvicorn.Config(
                create_app(service, api_key, allowed_origins, playground),
                http=timed(receive_timeout, write_timeout),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=keep_alive,  # type: ignore[arg-type]  # only ever a delay of the event loop
                h11_max_incomplete_event_size=HEADER_LIMIT,
                timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
            )
        )
        self._service = service
        self._drain_timeout = drain_timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def run_on(self, listener: socket.socket, on_ready: Callable[[], None]) -> None:
        """Serves until told to stop; calls `on_ready` once a token has been generated.

        Raises:
            UserError: the model loads but does not generate.
        """
        self._loop = asyncio.get_running_loop()
        warming = asyncio.create_task(self._warm_up(on_ready))
        try:
            await self.serve(sockets=[listener])
        finally:
            warming.cancel()
            await asyncio.gather(warming, return_exceptions=True)
            await asyncio.to_thread(self._service.backend.close)
        if not warming.cancelled() and (error := warming.exception()):
            raise UserError(f"the model loads but does not generate: {error}", "Export it again.") from error

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Handles SIGTERM and SIGINT."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.stop)

    def stop(self) -> None:
        """Begins to stop; called again, stops at once. Must be called on the event loop."""
        if self._stopping is None:
            self._service.draining = True
            self._stopping = asyncio.ensure_future(self._drain())
        else:
            self.should_exit = self.force_exit = True

    async def _warm_up(self, on_ready: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(self._service.backend.warm_up)
        except Exception:
            self.should_exit = True
            raise
        while not self.started:
            await asyncio.sleep(0.01)
        self._service.ready = True
        on_ready()

    async def _drain(self) -> None:
        log.warning(
            "stopping: finishing %d requests",
            self._service.backend.num_running + self._service.backend.num_waiting,
        )
        backend = self._service.backend
        if not await asyncio.to_thread(backend.drain, self._drain_timeout):
            log.warning("stopping: ending what did not finish within %g s", self._drain_timeout)
        await asyncio.to_thread(backend.close)
        self.should_exit = True
