"""HTTP/1.1 with time limits for receiving a request and for sending an answer."""

from __future__ import annotations

import asyncio
import functools
import json
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from lathe.serving.http.errors import error_body

RECEIVE_TIMEOUT_S = 10.0


class TimedProtocol(H11Protocol):
    """Closes connections that are too slow.

    A request has to be complete `receive_timeout` seconds after the connection was made, or after the first
    byte of a
    later request. A reader may block for `write_timeout` seconds. Between requests uvicorn's keep-alive timer
    runs.

    Writing pauses as soon as the operating system accepts no more data for the socket, so that a stalled
    reader
    costs the server one event.
    """

    def __init__(self, *args: Any, receive_timeout: float, write_timeout: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._receive_timeout = receive_timeout
        self._write_timeout = write_timeout
        self._receiving: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        _cancel(self._receiving)
        _cancel(self._writing)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        _cancel(self._receiving)
        self._receiving = None
        self._watch_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self.loop.call_later(self._write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._writing)

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP in our form; uvicorn's own answer is plain text."""
        body = json.dumps(error_body(400, msg)).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        headers["connection"] = "close"
        head = h11.Response(status_code=400, headers=list(headers.items()))
        events = (head, h11.Data(data=body), h11.EndOfMessage())
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()

    def _watch_request(self) -> None:
        """Runs the timer while a request has arrived in part."""
        idle = self.conn.their_state is h11.IDLE
        if self.conn.their_state is h11.SEND_BODY or (idle and self.conn.trailing_data[0]):
            self._start_clock()
            return
        _cancel(self._receiving)
        self._receiving = None
        if idle and self.timeout_keep_alive_task is None:  # the rest of a body that was answered early
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _start_clock(self) -> None:
        if self._receiving is None:
            self._receiving = self.loop.call_later(self._receive_timeout, self.transport.abort)


def timed(receive_timeout: float, write_timeout: float) -> type[TimedProtocol]:
    """Returns a factory of protocols with these limits, as uvicorn needs it."""
    make = functools.partial(TimedProtocol, receive_timeout=receive_timeout, write_timeout=write_timeout)
    return cast("type[TimedProtocol]", make)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
