"""Keeps special tokens that a message merely spells as text: only the chat template writes them.

A chat is rendered from messages in which every spelled special token stands between two marks, so that it is
found again in the rendered text. That text, without the marks, is then read as the tokenizer reads any text,
but for special tokens: they become tokens only where the template wrote them.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

PRIVATE_USE = range(0xE000, 0xF900)

Span = tuple[int, int]


class SpellingError(ValueError):
    """The tokenizer has no way to write a special token's text without the token."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Two characters that do not occur in the messages."""

    start: str
    end: str

    def around(self, text: str, spans: list[Span]) -> str:
        for begin, end in reversed(spans):
            text = f"{text[:begin]}{self.start}{text[begin:end]}{self.end}{text[end:]}"
        return text

    def removed(self, text: str) -> tuple[str, list[Span], list[int]]:
        """Returns the text without marks, the spans that they enclosed, and where each of them was."""
        parts = re.split(f"([{self.start}{self.end}])", text)
        plain, spans, places = "", [], []
        for i in range(0, len(parts), 2):
            if parts[i - 1 : i] == [self.start] and parts[i + 1 : i + 2] == [self.end]:
                spans.append((len(plain), len(plain) + len(parts[i])))
            plain += parts[i]
            places.append(len(plain))
        return plain, spans, places[:-1]


class ControlTokens:
    """The special tokens of one fast tokenizer. Safe to share by threads."""

    def __init__(self, fast: Any) -> None:
        added = fast.get_added_tokens_decoder()
        self.texts: dict[int, str] = {token: entry.content for token, entry in added.items() if entry.special}
        self._normalized = any(entry.special and entry.normalized for entry in added.values())
        longest_first = sorted(self.texts.values(), key=len, reverse=True)
        self._spelling = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._fast = fast
        self._anchor = f"\ue000{secrets.token_hex(8)}\ue001"

    @cached_property
    def _plain(self) -> Any:
        """The same tokenizer without special tokens, and with the anchor.

        It takes memory, and few servers ever need it.
        """
        from tokenizers import AddedToken, Tokenizer

        plain = Tokenizer.from_str(self._fast.to_str())
        plain.encode_special_tokens = True
        plain.add_tokens([AddedToken(self._anchor, special=False, normalized=False)])
        return plain

    def spelled_in(self, text: str) -> dict[int, str]:
        """Returns the special tokens whose texts are in `text`."""
        return {token: content for token, content in self.texts.items() if content in text}

    def marked(self, documents: Any) -> tuple[Any, Marks | None]:
        """Returns the documents with marks around the special tokens that their strings spell.

        Keys are left as they are. The marks are None where no string spells a special token.
        """
        present = set(json.dumps(documents, ensure_ascii=False))
        start, end, *_ = (chr(code) for code in PRIVATE_USE if chr(code) not in present)
        marks, found = Marks(start, end), False

        def mark(text: str) -> str:
            nonlocal found
            spans = self._spans(text)
            found = found or bool(spans)
            return marks.around(text, spans)

        changed = _each_string(documents, mark)
        return (changed, marks) if found else (documents, None)

    def encode(self, rendered: str, marks: Marks, *, special: bool) -> np.ndarray:
        """Returns the tokens of a text rendered from marked documents, int64 [T].

        Args:
            rendered: the text.
            marks: the marks in it.
            special: whether to add the special tokens that surround plain text.

        Raises:
            SpellingError: a special token's text cannot be written without the token.
        """
        text, spelled, places = marks.removed(rendered)
        kept: list[int] = []
        anchored, at = "", 0
        for token, begin, end in self._found(text):
            joined = any(begin < place < end for place in places)
            if joined or any(begin < stop and start < end for start, stop in spelled):
                continue
            kept.append(token)
            anchored += text[at:begin] + self._anchor
            at = end
        encoding = self._plain.encode(anchored + text[at:], add_special_tokens=special)
        tokens = np.array(encoding.ids, dtype=np.int64)
        around = np.array(encoding.special_tokens_mask, dtype=bool)
        if wrong := self.texts.keys() & set(tokens[~around].tolist()):
            raise SpellingError(f"this tokenizer cannot write {self.texts[min(wrong)]!r} as plain text")
        tokens[tokens == self._plain.token_to_id(self._anchor)] = kept
        return tokens

    def _found(self, text: str) -> list[tuple[int, int, int]]:
        """Returns (token, begin, end) of every special token that the tokenizer finds in a text."""
        encoding = self._fast.encode(text, add_special_tokens=False)
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        return [(token, begin, end) for token, (begin, end) in pairs if token in self.texts]

    def _spans(self, text: str) -> list[Span]:
        if self._normalized:
            return [(begin, end) for _, begin, end in self._found(text)]
        return [match.span() for match in self._spelling.finditer(text)]


def _each_string(document: Any, change: Callable[[str], str]) -> Any:
    if isinstance(document, str):
        return change(document)
    if isinstance(document, list | tuple):
        return [_each_string(item, change) for item in document]
    if isinstance(document, dict):
        return {key: _each_string(item, change) for key, item in document.items()}
    return document
