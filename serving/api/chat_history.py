"""Converts the messages of a request to what a chat template takes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from lathe.serving.api.messages import Message, ToolCall
from lathe.serving.http.errors import invalid
from lathe.serving.tools.template_support import ToolSupport

Json = dict[str, Any]


class History:
    """Converts messages for one template."""

    def __init__(self, support: ToolSupport | None, *, tools: bool, thoughts: bool) -> None:
        """Creates a converter.

        Args:
            support: how the template handles tools, if it knows any.
            tools: whether the template is given tools.
            thoughts: whether the template reads the reasoning of the assistant's earlier turns.
        """
        self._support, self._tools, self._thoughts = support, tools, thoughts
        self._names: dict[str, str] = {}

    def written(self, messages: Sequence[Message]) -> list[Json]:
        """Returns the messages as documents.

        Raises:
            ApiError: 400 for calls and results that the template does not show, or that do not match.
        """
        return [self._message(message, f"messages.{at}") for at, message in _in_order(messages)]

    def _message(self, message: Message, where: str) -> Json:
        role = "system" if message.role == "developer" else message.role
        document: Json = {"role": role, "content": message.text}
        if message.name:
            document["name"] = message.name
        if message.reasoning_content and self._thoughts:
            document["reasoning_content"] = message.reasoning_content
        if message.tool_calls:
            return document | self._calls(message, where)
        if message.tool_call_id is not None:
            return document | self._result(message, message.tool_call_id, where)
        return document

    def _calls(self, message: Message, where: str) -> Json:
        support = self._support
        if support is None or (support.format is None and not support.shows_calls):
            raise invalid(f"{where}.tool_calls: this model's chat template shows no tool calls", "messages")
        if not support.alone and not self._tools:
            raise invalid(
                f"{where}.tool_calls: this model's chat template shows calls only where it is given tools",
                "messages",
            )
        self._names |= {call.id: call.function.name for call in message.tool_calls}
        if support.shows_calls or support.format is None:
            return {"tool_calls": [self._call(call, support) for call in message.tool_calls]}
        calls = [(call.function.name, _json(call.function.arguments)) for call in message.tool_calls]
        return {"content": "\n".join(filter(None, [message.text, support.format.write(calls)]))}

    def _call(self, call: ToolCall, support: ToolSupport) -> Json:
        given = call.function.arguments
        arguments = _json(given) if support.text_arguments else given
        function = {"name": call.function.name, "arguments": arguments}
        return {"id": self._id(call.id), "type": "function", "function": function}

    def _result(self, message: Message, call: str, where: str) -> Json:
        if self._support is None or not self._support.shows_results:
            raise invalid(f"{where}.role: this model's chat template shows no results of tools", "messages")
        if call not in self._names:
            raise invalid(f"{where}.tool_call_id: no earlier tool call has the id {call[:60]!r}", "messages")
        return {"tool_call_id": self._id(call), "name": message.name or self._names[call]}

    def _id(self, given: str) -> str:
        """Returns an id that the template accepts.

        Some templates want nine letters and digits and refuse ids of other models.
        """
        call_format = self._support.format if self._support else None
        if call_format is None or not call_format.nine_char_ids or re.fullmatch("[a-zA-Z0-9]{9}", given):
            return given
        return hashlib.sha256(given.encode()).hexdigest()[:9]


def _in_order(messages: Sequence[Message]) -> Iterator[tuple[int, Message]]:
    """Yields messages with their positions, tool results in the order of their calls.

    Most templates show nothing else by which a result can be assigned to its call.

    Raises:
        ApiError: 400 where some of the calls of a message have results and others none.
    """
    at = 0
    while at < len(messages):
        yield at, messages[at]
        calls = [call.id for call in messages[at].tool_calls]
        end = at + 1
        while end < len(messages) and messages[end].tool_call_id in calls:
            end += 1
        results = {messages[place].tool_call_id for place in range(at + 1, end)}
        if missing := [call for call in calls if results and call not in results]:
            raise invalid(f"messages.{at}.tool_calls: there is no result of {missing[0][:60]!r}", "messages")
        order = sorted(range(at + 1, end), key=lambda place: calls.index(messages[place].tool_call_id or ""))
        yield from ((place, messages[place]) for place in order)
        at = end


def _json(arguments: Json) -> str:
    return json.dumps(arguments, ensure_ascii=False)
