"""Server-sent events, read from raw bytes so that every event keeps the time at which it arrived."""

from __future__ import annotations

FIELDS = {"data", "event", "id", "retry"}


class MalformedStreamError(Exception):
    """The bytes are not a stream of server-sent events."""


class EventReader:
    """Turns chunks of bytes, cut anywhere, into the `data` of complete events.

    Lines may end in LF or CRLF; comments (keep-alives) are skipped; an event that the end of the
    stream cuts off is never returned. An unknown field, which a browser would ignore, is an error
    here: a load test should not time a broken stream.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[str]:
        """The data of the events that `chunk` completes. Raises MalformedStreamError."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events = []
        for raw in lines:
            line = _decoded(raw.removesuffix(b"\r"))
            if line:
                self._field(line)
            elif self._data:
                events.append("\n".join(self._data))
                self._data = []
        return events

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
        elif name and name not in FIELDS:
            raise MalformedStreamError(f"a line that is no server-sent event: {line[:80]!r}")


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedStreamError(f"a line that is not UTF-8: {raw[:80]!r}") from error
