"""The items of a response's output, and the events that report their progress."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

Json = dict[str, Any]
ARGUMENTS = "response.function_call_arguments"
Status = Literal["in_progress", "completed", "incomplete"]


class Item(ABC):
    """One item while it is written. Its events lack only the fields that all events have in common."""

    prefix: str

    def __init__(self) -> None:
        self.id = f"{self.prefix}_{uuid.uuid4().hex}"
        self.status: Status = "in_progress"

    @abstractmethod
    def document(self) -> Json:
        """The item as it stands."""

    def begin(self) -> Iterator[Json]:
        """Events behind the one that adds the item."""
        yield from ()

    @abstractmethod
    def end(self) -> Iterator[Json]:
        """Events in front of the one that completes the item."""


class TextItem(Item):
    """An item with one part of text."""

    kind: str

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.begun = False

    @abstractmethod
    def part(self) -> Json:
        """The part as it stands."""

    def begin(self) -> Iterator[Json]:
        empty = self.part()
        self.begun = True
        yield self._event("response.content_part.added", part=empty)

    def add(self, text: str, **more: Any) -> Json:
        """The event of more text."""
        self.text += text
        return self._event(f"response.{self.kind}.delta", delta=text, **more)

    def end(self) -> Iterator[Json]:
        yield self._event(f"response.{self.kind}.done", text=self.text, **self._also())
        yield self._event("response.content_part.done", part=self.part())

    def _also(self) -> Json:
        return {}

    def _event(self, kind: str, **fields: Any) -> Json:
        return {"type": kind, "item_id": self.id, "content_index": 0} | fields


class MessageItem(TextItem):
    """A message of the assistant."""

    prefix, kind = "msg", "output_text"

    def __init__(self) -> None:
        super().__init__()
        self.logprobs: list[Json] = []

    def document(self) -> Json:
        return {
            "id": self.id,
            "type": "message",
            "status": self.status,
            "role": "assistant",
            "content": [self.part()] if self.begun else [],
        }

    def part(self) -> Json:
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": list(self.logprobs),
        }

    def say(self, text: str, logprobs: list[Json]) -> Json:
        """Adds text; returns its event, with the log-probabilities of its tokens."""
        self.logprobs += logprobs
        return self.add(text, logprobs=logprobs)

    def _also(self) -> Json:
        return {"logprobs": list(self.logprobs)}


class FunctionCallItem(Item):
    """A call of a function."""

    prefix = "fc"

    def __init__(self, call_id: str, name: str) -> None:
        super().__init__()
        self.call_id, self.name, self.arguments = call_id, name, ""

    def document(self) -> Json:
        return {
            "id": self.id,
            "type": "function_call",
            "status": self.status,
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.arguments,
        }

    def add(self, arguments: str) -> Json:
        """The event of more arguments."""
        self.arguments += arguments
        return {"type": f"{ARGUMENTS}.delta", "item_id": self.id, "delta": arguments}

    def end(self) -> Iterator[Json]:
        done = {"type": f"{ARGUMENTS}.done", "item_id": self.id, "name": self.name}
        yield done | {"arguments": self.arguments}


class ReasoningItem(TextItem):
    """The model's reasoning."""

    prefix, kind = "rs", "reasoning_text"

    def document(self) -> Json:
        return {
            "id": self.id,
            "type": "reasoning",
            "status": self.status,
            "summary": [],
            "content": [self.part()] if self.begun else [],
        }

    def part(self) -> Json:
        return {"type": "reasoning_text", "text": self.text}
