"""Turns the events of one streamed answer into a sample: when chunks with tokens arrived, and how many."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lathe.serving.loadtest.sample import RequestError, Sample
from lathe.serving.loadtest.sse import MalformedStreamError

LABELS = frozenset(
    {"role", "type", "id", "index", "format", "object", "status", "annotations", "signature", "logprobs"}
)
"""Fields of a delta that are not generated. Every other text is made of tokens, whatever its name."""
REASONING = ("reason", "think", "thought")
"""Parts of the names and types of fields that hold reasoning."""


class AnswerReader:
    """Records the events of an answer in a sample."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._blank_s: list[float] = []
        self._grown_s: list[float] = []
        self._counts: list[tuple[float, int]] = []
        self._reasoned = self._reasoning_reported = 0
        self._ended = False

    def event(self, data: str, arrived: float) -> None:
        """Takes in one event.

        Raises:
            MalformedStreamError: it is no event of such a stream.
            RequestError: it is an error of the server.
        """
        if data == "[DONE]":
            self._ended = True
            return
        event = _object(data)
        complaint = event.get("error") or (event if event.get("object") == "error" else None)
        if complaint is None and "choices" not in event and "usage" not in event:
            complaint = event.get("detail") or event.get("message")
        if complaint:
            raise RequestError("error_event", json.dumps(complaint)[:300])
        if self._sample.model is None and isinstance(event.get("model"), str):
            self._sample.model = event["model"]
        try:
            carried = [self._choice(choice, arrived) for choice in event.get("choices") or ()]
            self._usage(event.get("usage") or {}, arrived, carried)
        except (AttributeError, TypeError) as error:
            raise MalformedStreamError(f"an event of another shape: {data[:80]!r}") from error

    def finish(self) -> None:
        """Completes the sample once the stream is over.

        Raises:
            RequestError: the stream was cut off or had no tokens.
        """
        sample = self._sample
        if not self._ended:
            raise RequestError("truncated", "the stream ended without [DONE] or a finish reason")
        if not sample.chunk_s:
            unseen = f", though usage names {sample.output_tokens}" if sample.output_tokens else ""
            raise RequestError("no_tokens", f"the stream ended without a token{unseen}")
        sample.usage_reported = sample.output_tokens > 0
        if not sample.usage_reported:
            sample.output_tokens = len(sample.chunk_s)
        self._count_blanks(sample.output_tokens - len(sample.chunk_s))
        if self._running:
            sample.first_tokens = max(count for at, count in self._counts if at == self._counts[0][0])
        unaccounted = sample.output_tokens - len(sample.chunk_s)
        if not self._reasoned and self._reasoning_reported:
            sample.hidden_tokens = min(self._reasoning_reported, max(unaccounted, 0))

    @property
    def _running(self) -> bool:
        """True if chunks reported running counts, rather than each the count of the whole answer."""
        return len({count for _, count in self._counts}) > 1

    def _choice(self, choice: Mapping[str, Any], arrived: float) -> bool:
        """Records a choice of an event; returns whether it carries tokens."""
        self._ended = self._ended or bool(choice.get("finish_reason"))
        delta = choice.get("delta") or choice.get("message") or {}
        answers = _has_text(choice.get("text")) or any(
            _has_text(delta[name]) for name in delta if _is_answer(name, delta)
        )
        reasons = not answers and _has_text(delta)
        if not (answers or reasons):
            self._blank_s.append(arrived)
            return False
        if answers and self._reasoned and self._sample.answer_s is None:
            self._sample.answer_s = arrived
        self._reasoned += reasons
        self._sample.chunk_s.append(arrived)
        return True

    def _usage(self, usage: Mapping[str, Any], arrived: float, carried: list[bool]) -> None:
        """Records an event's usage; `carried` tells for each of its choices whether it carries tokens."""
        counted, prompt = usage.get("completion_tokens") or 0, usage.get("prompt_tokens")
        details = usage.get("completion_tokens_details") or {}
        self._reasoning_reported = details.get("reasoning_tokens") or self._reasoning_reported
        if any(carried) and counted:
            self._counts.append((arrived, counted))
        elif carried and counted > self._sample.output_tokens:
            self._grown_s.append(arrived)
        self._sample.output_tokens = max(self._sample.output_tokens, counted)
        self._sample.prompt_tokens = self._sample.prompt_tokens if prompt is None else prompt

    def _count_blanks(self, missing: int) -> None:
        """Counts chunks without text as tokens, up to the number that the server counts and no text shows.

        A token may have no text of its own (part of a character, the end). Only chunks after the first with
        text count; where the server reports running counts, only those with which its count grew.
        """
        first = self._sample.chunk_s[0]
        candidates = self._grown_s if self._running else self._blank_s
        blanks = [at for at in candidates if at >= first][: max(missing, 0)]
        self._sample.chunk_s = sorted([*self._sample.chunk_s, *blanks])


def _object(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError as error:
        raise MalformedStreamError(f"an event that is not JSON: {data[:80]!r}") from error
    if not isinstance(event, dict):
        raise MalformedStreamError(f"an event that is not a JSON object: {data[:80]!r}")
    return event


def _is_answer(name: str, delta: Mapping[str, Any]) -> bool:
    """Returns whether a field belongs to the answer itself, by its name or by the types of its parts."""
    if name in LABELS or any(word in name for word in REASONING):
        return False
    parts = delta[name] if isinstance(delta[name], list) else []
    kinds = [str(part.get("type", "")) for part in parts if isinstance(part, dict)]
    return not (kinds and all(any(word in kind for word in REASONING) for kind in kinds))


def _has_text(value: Any) -> bool:
    """Returns whether a value holds text anywhere but under a label; white space is text."""
    if isinstance(value, str):
        return value != ""
    if isinstance(value, Mapping):
        return any(_has_text(part) for name, part in value.items() if name not in LABELS)
    return isinstance(value, list) and any(_has_text(part) for part in value)
