"""What is known of one request of a load test."""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_PER_CHUNK = 2
"""Tokens that a chunk may carry on average for the time between chunks to tell of tokens: usage that names
more may as well speak of tokens that were never streamed."""
MOST_PER_ARRIVAL = 8
"""Tokens that may arrive at one moment on average: more were gathered on the way, by a proxy say."""


class RequestError(Exception):
    """A request that is counted as an error of `kind` and kept out of every percentile."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Sample:
    """What one request did. Times are seconds: `sent_s` from the start of the round, the others
    from the moment the request was sent. `chunk_s` holds one arrival per chunk that carried tokens, and
    `answer_s` that of the first chunk of the answer itself where reasoning came before it.

    `told`: `output_tokens` is the server's own count and not that of the chunks; None: as `prompt_tokens` is.
    `first_tokens`: of them in the first chunk, where the server counts chunk by chunk. `hidden_tokens`: those
    that it says it generated and did not send. With `ends_only` the chunks between the first and the last are
    not known.
    """

    sent_s: float
    late_s: float = 0.0
    chunk_s: list[float] = field(default_factory=list)
    end_s: float = 0.0
    prompt_tokens: int | None = None
    output_tokens: int = 0
    asked_tokens: int = 0
    answer_s: float | None = None
    told: bool | None = None
    first_tokens: int | None = None
    hidden_tokens: int = 0
    ends_only: bool = False
    error_kind: str | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error_kind is None

    @property
    def counted(self) -> bool:
        """Whether the server says how many tokens there were."""
        return self.prompt_tokens is not None if self.told is None else self.told

    @property
    def came_first(self) -> int:
        """Tokens that arrived with the first: one, unless the server counts more, or chunks came together."""
        return max(self.first_tokens or 1, 1 if self.ends_only else self.chunk_s.count(self.chunk_s[0]))

    @property
    def untimed(self) -> bool:
        """Whether there are more tokens than the chunks can time: no time per token can be told."""
        if not self.ok or not self.chunk_s:
            return False
        tokens, arrivals = self.output_tokens, len(set(self.chunk_s))
        if tokens < 2:  # one chunk of who knows how many, or a count that cannot be
            return (self.told is False and self.asked_tokens > 1) or arrivals > 1
        if arrivals < 2 or tokens <= self.came_first:
            return True
        if self.ends_only:
            return False
        crowded = self.first_tokens is None and tokens > MOST_PER_CHUNK * len(self.chunk_s)
        return crowded or self.hidden_tokens > 0 or tokens > MOST_PER_ARRIVAL * arrivals
