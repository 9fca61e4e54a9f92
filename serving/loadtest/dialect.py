"""The fields of our request body that a server accepts, learned from those that it refuses by name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lathe.artefact.errors import UserError
from lathe.serving.loadtest.refusals import refused_fields

REFUSED = (400, 422)
"""Statuses of an answer that may name a field."""
OPTIONAL = {
    "ignore_eos": "answers may end before their length",
    "temperature": "the server samples as it likes",
    "stream_options": "tokens are counted by chunks",
}
"""Fields that a load test can do without, and the consequence of leaving one out."""
PARTS = {"include_usage": "stream_options"}
LENGTHS = ("max_tokens", "max_completion_tokens")
RUNNING_COUNTS = "continuous_usage_stats"
KNOWN = frozenset({*OPTIONAL, *PARTS, *LENGTHS, RUNNING_COUNTS})
FIXED = ("model", "prompt", "messages", "stream", "n", "best_of", *LENGTHS)
"""Fields that only the load test sets."""
UNKNOWN = re.compile(
    r"un(?:known|recogni[sz]ed|supported|expected)|extra|not \w*\s*(?:permitted|allowed|supported)"
)


@dataclass
class Dialect:
    """How request bodies are changed for a server.

    Attributes:
        extra: the user's own fields; a null leaves a field out.
        length_field: the name of the field for the number of output tokens.
        dropped: fields that the server refused.
        counting: ask the server for running token counts, which tell how many tokens a chunk carries;
            vLLM, SGLang and Lathe have them.
        notes: a sentence for each change, for readers of the numbers.
    """

    extra: Mapping[str, Any] = field(default_factory=dict)
    length_field: str = LENGTHS[0]
    dropped: set[str] = field(default_factory=set)
    counting: bool = False
    notes: list[str] = field(default_factory=list)

    def shaped(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the body as this server gets it."""
        shaped = {key: value for key, value in body.items() if key not in self.dropped}
        shaped[self.length_field] = shaped.pop(LENGTHS[0])
        if self.counting and "stream_options" in shaped:
            shaped["stream_options"] = {**shaped["stream_options"], RUNNING_COUNTS: True}
        merged = {**shaped, **self.extra}
        if "stream" not in body:
            merged.pop("stream_options", None)
        return {key: value for key, value in merged.items() if key not in self.extra or value is not None}

    def learn(self, body: Mapping[str, Any], sent: Mapping[str, Any], refusal: str) -> bool:
        """Learns from a refusal; returns whether `body`, which was sent as `sent`, is now sent otherwise."""
        if self.shaped(body) != sent:
            return True  # another request has learned it meanwhile
        named = refused_fields(refusal, KNOWN)
        if RUNNING_COUNTS in named and self.counting:
            self.counting = False
            return self.shaped(body) != sent
        named |= {PARTS[name] for name in named if name in PARTS}
        self._leave_out(named & sent.keys() & OPTIONAL.keys() - self.extra.keys(), refusal)
        if self._wants_other_length(named, refusal):
            self.length_field = LENGTHS[1]
            self.notes.append(
                f"the server takes max_completion_tokens in place of max_tokens {_quoted(refusal)}"
            )
        return self.shaped(body) != sent

    def _leave_out(self, names: set[str], refusal: str) -> None:
        self.dropped |= names
        for name in sorted(names):
            self.notes.append(f"the server refuses {name}: left out, {OPTIONAL[name]} {_quoted(refusal)}")

    def _wants_other_length(self, named: set[str], refusal: str) -> bool:
        """Returns whether the server wants the other field for the length.

        A length that is refused for its value stays an error.
        """
        if self.length_field == LENGTHS[1] or not named & set(LENGTHS):
            return False
        return LENGTHS[1] in refusal or UNKNOWN.search(refusal.lower()) is not None


def read_extra_body(text: str | None) -> dict[str, Any]:
    """Reads the value of `--extra-body`.

    Raises:
        UserError: it is no JSON object, or changes the load itself.
    """
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"--extra-body is not JSON: {error}", _remedy()) from None
    if not isinstance(found, dict):
        raise UserError("--extra-body is not a JSON object", _remedy())
    if taken := [name for name in FIXED if name in found]:
        raise UserError(
            f"--extra-body sets {', '.join(taken)}, which the load test sets itself",
            "Leave it out; --model, --prompts, --output-tokens and --concurrency are its options.",
        )
    return found


def _remedy() -> str:
    return (
        """Write it like '{"chat_template_kwargs": {"enable_thinking": false}}'; null leaves a field out."""
    )


def _quoted(refusal: str) -> str:
    return f"({' '.join(refusal.split())[:160]})"
