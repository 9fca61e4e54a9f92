"""What the answer to a call is: events of a stream, or one document."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from lathe.serving.backend import GenerationRequest, RequestOutput
from lathe.serving.http.errors import ApiError, error_body

Json = dict[str, Any]


class PromptUsage:
    """What a call's prompts take; a prompt with several answers counts once.

    Attributes:
        tokens: of all of them.
        cached: of these, what was not read again; None: prompts are not kept, or none was read yet.
    """

    def __init__(self, requests: Sequence[GenerationRequest]) -> None:
        self._first = {request.index for request in requests if request.choice == 0}
        self.tokens = sum(len(request.prompt) for request in requests if request.choice == 0)
        self.cached: int | None = None

    def read(self, output: RequestOutput) -> None:
        """Take note of what an output reports."""
        if output.num_cached_tokens is not None and output.index in self._first:
            self.cached = (self.cached or 0) + output.num_cached_tokens


class Answer(ABC):
    """Written from outputs as they come, streamed (`opening`, `events`, `closing`) or `whole`.

    Attributes:
        terminator: what a complete stream ends with.
    """

    terminator = b"data: [DONE]\n\n"

    @abstractmethod
    def events(self, output: RequestOutput) -> Iterable[Json]:
        """Events for one output."""

    @abstractmethod
    def whole(self, outputs: Sequence[RequestOutput]) -> Json:
        """The one document, from all outputs."""

    def opening(self) -> Iterable[Json]:
        """Events before the first output."""
        return ()

    def closing(self) -> Iterable[Json]:
        """Events after the last output."""
        return ()

    def failure(self, error: ApiError) -> Iterable[Json]:
        """Events that tell of an error after the stream began."""
        yield error_body(error.status, error.message, error.param, error.code)

    def is_delta(self, event: Json) -> bool:
        """Whether an event has a part of the answer."""
        return bool(event.get("choices"))

    def head_of(self, event: Json) -> str:  # noqa: ARG002
        """Lines of an event before its data."""
        return ""
