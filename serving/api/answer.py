"""The interface of an answer: events of a stream, or one document."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from lathe.serving.backend import GenerationRequest, RequestOutput
from lathe.serving.http.errors import ApiError, error_body

Json = dict[str, Any]


class PromptUsage:
    """Counts the tokens of a call's prompts; a prompt with several answers counts once.

    Attributes:
        tokens: the tokens of all prompts.
        cached: how many of them came from the prefix cache; None without a cache, or before the first output.
    """

    def __init__(self, requests: Sequence[GenerationRequest]) -> None:
        self._first = {request.index for request in requests if request.choice == 0}
        self.tokens = sum(len(request.prompt) for request in requests if request.choice == 0)
        self.cached: int | None = None

    def read(self, output: RequestOutput) -> None:
        """Adds what an output reports."""
        if output.num_cached_tokens is not None and output.index in self._first:
            self.cached = (self.cached or 0) + output.num_cached_tokens


class Answer(ABC):
    """Builds an answer from outputs as they come, streamed (`opening`, `events`, `closing`) or `whole`.

    Attributes:
        terminator: the bytes that end a complete stream.
    """

    terminator = b"data: [DONE]\n\n"

    @abstractmethod
    def events(self, output: RequestOutput) -> Iterable[Json]:
        """Returns the events for one output."""

    @abstractmethod
    def whole(self, outputs: Sequence[RequestOutput]) -> Json:
        """Returns the one document, built from all outputs."""

    def opening(self) -> Iterable[Json]:
        """Returns the events before the first output."""
        return ()

    def closing(self) -> Iterable[Json]:
        """Returns the events after the last output."""
        return ()

    def failure(self, error: ApiError) -> Iterable[Json]:
        """Returns the events that report an error after the stream began."""
        yield error_body(error.status, error.message, error.param, error.code)

    def is_delta(self, event: Json) -> bool:
        """Returns whether an event has a part of the answer."""
        return bool(event.get("choices"))

    def head_of(self, event: Json) -> str:  # noqa: ARG002
        """Returns the lines of an event before its data."""
        return ""
