"""Documents from rows: text, or a chat as the model's chat template writes it.

Nothing else is made into text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lathe.artefact.errors import UserError
from lathe.artefact.texts.rows import Row, is_chat

TEXTS = ("text", "content", "document", "body")
"""Columns with a document, the first that there is."""
CHATS = ("messages", "conversations", "conversation")
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
}
"""What ShareGPT's `from` stands for."""
_NAMES = {
    str: "text",
    type(None): "null",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    bytes: "bytes",
}
_CHAT = "as chats, by the model's template"

Render = Callable[[Sequence[Mapping[str, Any]], Sequence[Any] | None], str]


class ChatText(str):
    """A conversation as a chat template wrote it, with the special tokens that belong to it."""


class ReadingLog(Protocol):
    """The receiver of messages about text that was read, and of warnings about text that was not."""

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...


class SilentLog:
    """A log that ignores everything."""

    def say(self, text: str) -> None:
        """Ignores the message."""

    def warn(self, text: str) -> None:
        """Ignores the warning."""


@dataclass
class Reading:
    """How files are read. render: writes a chat by the model's template; None where there is no model."""

    render: Render | None = None
    log: ReadingLog = field(default_factory=SilentLog)
    _found: Counter[str] = field(default_factory=Counter)

    def documents(self, rows: Iterable[Row], origin: Path | str) -> Iterator[str]:
        """Yields a document of each row, and logs which columns were used.

        Raises:
            UserError: a row has no text, or something else in the place of text.
        """
        self._found.clear()
        for row in rows:
            yield _encodable(self._document(row), row.place)
        ways = [f"rows {way}: {count}" for way, count in self._found.items()]
        if ways:
            self.log.say(f"  {origin}: {', '.join(ways)}")

    def _document(self, row: Row) -> str:
        value = {CHATS[0]: row.value} if is_chat(row.value) else row.value
        if isinstance(value, str):
            return value
        if not isinstance(value, dict):
            raise UserError(f"{row.place} is {_named(value)}, not text or an object with a `text`")
        columns = {str(name).strip().casefold(): name for name in reversed(value)}
        for name in (*TEXTS, *CHATS):
            if name in columns:
                found = value[columns[name]]
                break
        else:
            raise UserError(
                f"{row.place} has no `text`: it has {', '.join(map(str, value)) or 'nothing'}",
                f"Name the column with the text `{TEXTS[0]}`, or give chats as `{CHATS[0]}`.",
            )
        if name != TEXTS[0]:
            self._found[_CHAT if name in CHATS else f"by their `{columns[name]}`"] += 1
        if name in CHATS:
            return self._chat(found, value.get("tools"), row.place)
        if name == "content" and "role" in columns:
            raise UserError(
                f"{row.place} is one message of a chat", f'A row is a whole chat: {{"{CHATS[0]}": [...]}}.'
            )
        if not isinstance(found, str):
            raise UserError(f"{row.place}: `{columns[name]}` is {_named(found)}, not text")
        return found

    def _chat(self, given: Any, tools: Any, place: str) -> ChatText:
        if not is_chat(given):
            wrong = "empty" if given == [] else _named(given)
            raise UserError(f"{place}: its chat is {wrong}, not a list of messages with role and content")
        if tools is not None and not isinstance(tools, list):
            raise UserError(f"{place}: `tools` is {_named(tools)}, not a list")
        messages = [_message(m, f"{place}, message {n}") for n, m in enumerate(given, 1)]
        if self.render is None:
            raise UserError(f"{place} is a chat, and no model is at hand whose template would write it")
        try:
            return ChatText(self.render(messages, tools))
        except UserError as error:
            raise UserError(f"{place} is a chat, and {error}") from None


def _message(given: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Returns a message in OpenAI's form, from that or ShareGPT's."""
    if "role" in given:
        message = {**given, "content": _content(given.get("content"), place, "tool_calls" in given)}
        if not isinstance(given["role"], str):
            raise UserError(f"{place}: its role is {_named(given['role'])}, not text")
        return message
    role = _ROLES.get(str(given["from"]))
    if role is None:
        raise UserError(f"{place} is from `{given['from']}`", f"Known: {', '.join(_ROLES)}.")
    return {"role": role, "content": _content(given.get("value"), place, False)}


def _content(value: Any, place: str, optional: bool) -> str | None:
    if value is None and optional:
        return None
    if isinstance(value, list):
        parts = [
            v.get("text") if isinstance(v, dict) and v.get("type", "text") == "text" else None for v in value
        ]
        if all(isinstance(part, str) for part in parts):
            return _encodable("".join(map(str, parts)), place)
        raise UserError(f"{place} has a part that is not text")
    if not isinstance(value, str):
        raise UserError(f"{place}: its content is {_named(value)}, not text")
    return _encodable(value, place)


def _encodable(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place} holds half a character (U+{ord(text[error.start]):04X} alone) at character "
            f"{error.start + 1}"
        ) from None
    return text


def _named(value: Any) -> str:
    return _NAMES.get(type(value), f"a {type(value).__name__}")
