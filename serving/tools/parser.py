"""Parses tool calls out of an answer while it is generated."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lathe.serving.decoding.detokenizer import longest_start
from lathe.serving.tools.call_format import ToolCallFormat
from lathe.serving.tools.pattern import Match, Pattern


@dataclass(frozen=True, slots=True)
class Text:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Start:
    """The start of a tool call."""

    name: str
    id: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the arguments of the call that began last, as JSON."""

    text: str


Event = Text | Start | Arguments


class CallParser:
    """Parses an answer incrementally; what does not become a call is text.

    However a text is cut into chunks, it gives the same text, calls and arguments. White space next to a call
    is
    dropped. The arguments of a call are reported as they come: where no grammar constrains the model, they
    may be
    incomplete.
    """

    def __init__(self, call_format: ToolCallFormat, names: Collection[str]) -> None:
        """Creates a parser; a call of a tool that is not in `names` is text."""
        self._format, self._names = call_format, frozenset(names)
        self._first = Pattern(call_format.before + call_format.head)
        self._bare = Pattern((" ", *call_format.head))
        self._ends = [Pattern(tail + call_format.closing) for tail in call_format.tails]
        more = [] if call_format.more is None else [(*call_format.more, *call_format.head)]
        self._nexts = [Pattern(tail + next_) for tail in call_format.tails for next_ in more]
        self._state = self._beginning if call_format.bare else self._words
        self._held = self._opened = ""
        self._object = _Object()
        self._events: list[Event] = []
        self._after_call = False
        self._ids: set[str] = set()
        self.called = 0
        """How many calls are complete."""

    def push(self, text: str) -> list[Event]:
        """Returns what became certain with more of the answer."""
        self._held += text
        while self._held and self._state():
            pass
        events, self._events = self._events, []
        return events

    def flush(self, *, cut: bool) -> list[Event]:
        """Returns the rest; call once, at the end.

        If the answer was `cut` off, the beginning of a call is not part of its text.
        """
        rest, self._held = self._held, ""
        if self._state == self._head:
            self._tell("" if cut and self._first.match(rest).status != "none" else self._opened + rest)
        elif self._state in (self._words, self._beginning):
            again = self._after_call and cut and self._format.opening.startswith(rest.lstrip())
            self._tell("" if again else rest)
        events, self._events = self._events, []
        return events

    def _tell(self, text: str) -> None:
        if text:
            self._events.append(Text(text))

    def _beginning(self) -> bool:
        """Parses the start of an answer, which may be a call without an opening."""
        match = self._bare.match(self._held)
        if self._starts(match):
            return True
        if match.status != "none" and self._open_object(match):
            return False
        self._state = self._words
        return True

    def _words(self) -> bool:
        if self._after_call:
            self._held = self._held.lstrip()
        opening = self._format.opening
        at = self._held.find(opening)
        end = at if at >= 0 else len(self._held) - longest_start(self._held, [opening])
        said = self._held[:end].rstrip()
        self._tell(said)
        self._after_call = self._after_call and not said
        if at < 0:
            self._held = self._held[len(said) :]
            return False
        self._opened = self._held[len(said) : at + len(opening)]
        self._held = self._held[at + len(opening) :]
        self._state = self._head
        return True

    def _head(self) -> bool:
        match = self._first.match(self._held)
        if self._starts(match):
            return True
        if match.status != "none" and self._open_object(match):
            return False
        self._tell(self._opened)
        self._state = self._words
        return True

    def _open_object(self, match: Match) -> bool:
        """Returns whether what follows the match is, or may become, an object for a tool that exists."""
        if match.status == "partial":
            return True
        return match.name in self._names and self._held[match.end : match.end + 1] in ("", "{")

    def _starts(self, match: Match) -> bool:
        """Consumes the beginning of a call, if it is one."""
        if match.status != "full" or match.end == len(self._held) or not self._open_object(match):
            return False
        self._held = self._held[match.end :]
        fresh = match.id if match.id and match.id not in self._ids else self._format.new_id()
        self._ids.add(fresh)
        self._events.append(Start(match.name, fresh))
        self._object, self._state = _Object(), self._arguments
        return True

    def _arguments(self) -> bool:
        end = self._object.end(self._held)
        self._events.append(Arguments(self._held[:end]))
        self._held = self._held[end:]
        if self._object.complete:
            self.called += 1
            self._after_call, self._state = True, self._tail
            return self._tail() if not self._held else True
        return False

    def _tail(self) -> bool:
        nexts = [pattern.match(self._held) for pattern in self._nexts]
        if any(self._starts(match) for match in nexts):
            return True
        ends = [pattern.match(self._held) for pattern in self._ends]
        full = next((match for match in ends if match.status == "full"), None)
        if full is None and any(match.status == "partial" for match in (*nexts, *ends)):
            return False
        if full is None and any(match.status == "full" and self._open_object(match) for match in nexts):
            return False
        self._held = self._held[full.end if full else 0 :]
        self._state = self._words
        return True


class _Object:
    """Finds the end of a JSON object."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = self._escaped = self.complete = False

    def end(self, text: str) -> int:
        """Returns how much of `text` belongs to the object."""
        for at, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped = character == "\\"
                self._quoted = character != '"'
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if not self._depth:
                    self.complete = True
                    return at + 1
        return len(text)
