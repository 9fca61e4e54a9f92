"""Chunks that wait for the end of a step, so that they are handed over together."""

from __future__ import annotations

from collections.abc import Callable

from serving.engines.base import Chunk, Mail, Sink


class Outbox:
    """Used from one thread."""

    def __init__(self) -> None:
        self._waiting: dict[Callable[[Mail], None], list[tuple[Sink, Chunk]]] = {}

    def put(self, carry: Callable[[Mail], None], sink: Sink, chunk: Chunk) -> None:
        """Let a chunk wait for `send`."""
        self._waiting.setdefault(carry, []).append((sink, chunk))

    def send(self) -> None:
        """Hand over what waits, in the order in which it came, in one piece for each carrier."""
        waiting, self._waiting = self._waiting, {}
        for carry, mail in waiting.items():
            carry(mail)
