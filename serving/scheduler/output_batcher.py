"""Chunks that wait for the end of a step, so that they are handed over together."""

from __future__ import annotations

from collections.abc import Callable

from lathe.serving.backend import OutputBatch, RequestOutput, Sink


class OutputBatcher:
    """Used from one thread."""

    def __init__(self) -> None:
        self._waiting: dict[Callable[[OutputBatch], None], list[tuple[Sink, RequestOutput]]] = {}

    def put(self, carry: Callable[[OutputBatch], None], sink: Sink, chunk: RequestOutput) -> None:
        """Let a chunk wait for `send`."""
        self._waiting.setdefault(carry, []).append((sink, chunk))

    def send(self) -> None:
        """Hand over what waits, in the order in which it came, in one piece for each carrier."""
        waiting, self._waiting = self._waiting, {}
        for carry, mail in waiting.items():
            carry(mail)
