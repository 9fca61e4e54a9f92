"""Server-sent events, read from raw bytes so that every event keeps the time at which it arrived."""

from __future__ import annotations

import re

BOM = b"\xef\xbb\xbf"
END = re.compile(rb"\r\n|\n|\r")
FIELDS = {"data", "event", "id", "retry"}


class MalformedStreamError(Exception):
    """The bytes are not a stream of server-sent events."""


class EventReader:
    """Turns chunks of bytes, cut anywhere, into the `data` of complete events.

    Lines may end in LF, CRLF or CR. Comments (keep-alives) and a byte order mark at the start are skipped. An
    event that the end of the stream cuts off is never returned. An unknown field, which a browser would
    ignore, is an error here, because a load test should not time a broken stream.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []
        self._started = self._after_cr = False

    def feed(self, chunk: bytes) -> list[str]:
        """Returns the data of the events that `chunk` completes.

        Raises:
            MalformedStreamError: a line is no server-sent event.
        """
        events = []
        for raw in self._lines(chunk):
            line = _decoded(raw)
            if line:
                self._field(line)
            elif self._data:
                events.append("\n".join(self._data))
                self._data = []
        return events

    def _lines(self, chunk: bytes) -> list[bytes]:
        """Returns the lines that `chunk` completes; a CR at its end ends a line, with an LF that follows."""
        text = self._rest + chunk
        if not self._started:
            if BOM.startswith(text):
                self._rest = text
                return []
            self._started, text = True, text.removeprefix(BOM)
        if self._after_cr and text:
            text = text.removeprefix(b"\n")
        self._after_cr = text.endswith(b"\r") or (self._after_cr and not text)
        *lines, self._rest = END.split(text) if b"\r" in text else text.split(b"\n")
        return lines

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
