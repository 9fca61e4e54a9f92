"""Collects the outputs of one step, so that each dispatcher is called once per step."""

from __future__ import annotations

from lathe.serving.backend import Dispatch, OutputBatch, OutputCallback, RequestOutput


class OutputBatcher:
    """Groups outputs by dispatcher until `flush`. Used from the engine's thread only."""

    def __init__(self) -> None:
        self._batches: dict[Dispatch, list[tuple[OutputCallback, RequestOutput]]] = {}

    def add(self, dispatch: Dispatch, callback: OutputCallback, output: RequestOutput) -> None:
        """Keeps an output, and the callback that will get it, until `flush`."""
        self._batches.setdefault(dispatch, []).append((callback, output))

    def flush(self) -> None:
        """Hands each dispatcher its outputs in one batch, in the order in which they were added."""
        batches, self._batches = self._batches, {}
        batch: OutputBatch
        for dispatch, batch in batches.items():
            dispatch(batch)
