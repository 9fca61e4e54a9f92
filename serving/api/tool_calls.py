"""The tools of a request on the served model: which calls are allowed, and how they are reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lathe.serving.api.tool_fields import ToolUse
from lathe.serving.decoding.sampling import TokenLogprob
from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.http.errors import invalid
from lathe.serving.tools.call_format import ToolCallFormat
from lathe.serving.tools.grammar import ToolCallSpec
from lathe.serving.tools.parser import CallParser, Event, Start, Text
from lathe.serving.tools.registry import available_formats
from lathe.serving.tools.template_support import ToolSupport, tool_support_of

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Calling:
    """How one request's answers may call tools.

    Attributes:
        spec: the tools, and how they may be called.
        visible_tokens: bytes of the special tokens that mark calls.
        no_stops_after: the beginnings of a call, within which there are no stop strings.
    """

    spec: ToolCallSpec
    visible_tokens: dict[int, bytes]
    no_stops_after: tuple[str, ...]

    def deltas(self) -> CallDeltas | None:
        """Returns the reader of calls for one answer; None where it calls nothing."""
        if self.spec.choice == "none":
            return None
        return CallDeltas(CallParser(self.spec.format, [tool.name for tool in self.spec.tools]))


class ServedTools:
    """How the served model's chat template handles tools."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def support(self) -> ToolSupport | None:
        """How the template handles tools; None where it knows none."""
        return tool_support_of(self._tokenizer.render_chat) if self._tokenizer.has_chat_template else None

    def calling(
        self, use: ToolUse | None, answer: Json | None, param: str = "response_format"
    ) -> Calling | None:
        """Returns how a request's answers may call tools.

        Args:
            use: the tools of the request.
            answer: the schema of an answer that calls nothing.
            param: the field that this schema comes from.

        Raises:
            ApiError: 400 when the model cannot use tools so.
        """
        if use is None:
            return None
        call_format = self.support.format if self.support else None
        if call_format is None and use.choice != "none":
            raise invalid(f"tools: {self._why_not()}", "tools")
        if call_format is None or (use.choice == "none" and answer is not None):
            return None
        if answer is not None and call_format.bare:
            raise invalid(
                f"{param}: with tools, nothing would tell this model's calls from an answer in JSON", param
            )
        spec = ToolCallSpec(call_format, use.callable, use.choice, use.several, answer)
        heads = (
            tuple(call_format.written_head(tool.name) for tool in use.callable) if call_format.bare else ()
        )
        return Calling(
            spec,
            self._visible_tokens(call_format) if use.choice != "none" else {},
            (call_format.opening, *heads),
        )

    def _visible_tokens(self, call_format: ToolCallFormat) -> dict[int, bytes]:
        tokens = {mark: self._tokenizer.token(mark) for mark in call_format.marks}
        return {token: mark.encode() for mark, token in tokens.items() if token is not None}

    def _why_not(self) -> str:
        if self.support is None:
            return "this model's chat template shows no tools"
        known = ", ".join(call_format.name for call_format in available_formats())
        return f"this model's chat template writes calls in a form that is not read here; known are {known}"


@dataclass(slots=True)
class CallDeltas:
    """Reads one answer as the deltas of a stream, each with the log-probabilities of its tokens."""

    _parser: CallParser
    _index: int = field(default=-1, init=False)

    def read(self, text: str, logprobs: Sequence[TokenLogprob]) -> list[tuple[Json, Sequence[TokenLogprob]]]:
        """Returns the deltas that became certain with more of the answer."""
        deltas = [self._delta(event) for event in self._parser.push(text)]
        if not deltas and logprobs:
            deltas = [{}]
        return [(delta, logprobs if at == 0 else ()) for at, delta in enumerate(deltas)]

    def end(self, *, cut: bool) -> list[tuple[Json, Sequence[TokenLogprob]]]:
        """Returns the remaining deltas; `cut`: the answer did not come to its own end."""
        return [(self._delta(event), ()) for event in self._parser.flush(cut=cut)]

    def finish(self, reason: str | None) -> str | None:
        """Returns the finish reason of an answer that may have called tools."""
        return "tool_calls" if reason == "stop" and self._parser.called else reason

    def _delta(self, event: Event) -> Json:
        if isinstance(event, Text):
            return {"content": event.text}
        if isinstance(event, Start):
            self._index += 1
            function = {"name": event.name, "arguments": ""}
            call = {"index": self._index, "id": event.id, "type": "function", "function": function}
            return {"tool_calls": [call]}
        return {"tool_calls": [{"index": self._index, "function": {"arguments": event.text}}]}


def calls_of(deltas: Sequence[Json]) -> list[Json]:
    """Returns the calls of a whole answer, from its deltas."""
    calls: list[Json] = []
    for part in (part for delta in deltas for part in delta.get("tool_calls", ())):
        if part["index"] == len(calls):
            function = dict(part["function"])
            calls.append({"id": part["id"], "type": part["type"], "function": function})
        else:
            calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    return calls
