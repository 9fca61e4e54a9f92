"""The measurements of one request of a load test."""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_PER_CHUNK = 2
"""Tokens per chunk, on average, above which gaps between chunks say nothing about tokens: the usage may
count tokens that were never streamed."""
MOST_PER_ARRIVAL = 8
"""Tokens per moment of arrival, on average, above which something on the way, such as a proxy, held them."""


class RequestError(Exception):
    """A request that is counted as an error of `kind` and kept out of every percentile."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Sample:
    """One request and its answer. All times are in seconds.

    Attributes:
        sent_s: when it was sent, from the start of the round; all other times are from this moment.
        late_s: how much later than its arrival time that was.
        chunk_s: the arrival of each chunk that carried tokens.
        end_s: when the stream ended.
        prompt_tokens: the server's count; None: it reported none.
        output_tokens: the server's count, or else the number of chunks.
        asked_tokens: the tokens that the request asked for.
        answer_s: the arrival of the first chunk of the answer itself, where reasoning came before it.
        usage_reported: whether `output_tokens` is the server's count; None: it is if `prompt_tokens` is.
        first_tokens: output tokens in the first chunk, where the server counts chunk by chunk.
        hidden_tokens: tokens that the server says it generated and did not send.
        model: the model that the answer names.
        ends_only: the chunks between the first and the last are not known.
        error_kind: the kind of error; None: it succeeded.
        error: the error's message.
    """

    sent_s: float
    late_s: float = 0.0
    chunk_s: list[float] = field(default_factory=list)
    end_s: float = 0.0
    prompt_tokens: int | None = None
    output_tokens: int = 0
    asked_tokens: int = 0
    answer_s: float | None = None
    usage_reported: bool | None = None
    first_tokens: int | None = None
    hidden_tokens: int = 0
    model: str | None = None
    ends_only: bool = False
    error_kind: str | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error_kind is None

    @property
    def counted(self) -> bool:
        """True if the server reported the number of tokens."""
        return self.prompt_tokens is not None if self.usage_reported is None else self.usage_reported

    @property
    def first_arrival_tokens(self) -> int:
        """Tokens that arrived with the first one, itself included; more than one if chunks came together."""
        return max(self.first_tokens or 1, 1 if self.ends_only else self.chunk_s.count(self.chunk_s[0]))

    @property
    def untimed(self) -> bool:
        """True if there are more tokens than the chunks can time, so that there is no time per token."""
        if not self.ok or not self.chunk_s:
            return False
        tokens, arrivals = self.output_tokens, len(set(self.chunk_s))
        if tokens < 2:  # one chunk of who knows how many, or a count that cannot be
            return (self.usage_reported is False and self.asked_tokens > 1) or arrivals > 1
        if arrivals < 2 or tokens <= self.first_arrival_tokens:
            return True
        if self.ends_only:
            return False
        crowded = self.first_tokens is None and tokens > MOST_PER_CHUNK * len(self.chunk_s)
        return crowded or self.hidden_tokens > 0 or tokens > MOST_PER_ARRIVAL * arrivals
