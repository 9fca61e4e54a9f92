"""From tokens to text, one token at a time: whole UTF-8 characters only, and stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence

SURROGATE = 0xD800
"""Lone surrogates never come out of UTF-8: each stands for one special token while the text is searched."""


def longest_start(text: str, words: Sequence[str]) -> int:
    """Length of the longest end of `text` that is the start of one of `words`, and not all of it."""
    longest = max((len(word) for word in words), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(word.startswith(text[-length:]) for word in words):
            return length
    return 0


class StopMatcher:
    """Lets text through until a stop string is complete; holds back what may be the start of one. From one of
    `verbatim` on, nothing is a stop string.
    """

    def __init__(self, stops: Sequence[str], verbatim: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._verbatim = tuple(verbatim) if stops else ()
        self._held = ""
        self.found = ""
        """The stop string that is complete."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete."""
        return bool(self.found)

    def push(self, text: str, *, may_stop: bool = True) -> str:
        """What may be shown after `text` arrived. Unless it `may_stop`, no stop string ends in it."""
        if self.stopped:
            return ""
        old, text = len(self._held), self._held + text
        place = self._first(text, old) if may_stop else None
        end = len(text) if place is None else place[0]
        if any(0 <= text.find(start) < end for start in self._verbatim):
            self._stops = self._verbatim = ()
            self._held = ""
            return text
        if place is not None:
            self.found, self._held = text[slice(*place)], ""
            return text[:end]
        safe = len(text) - longest_start(text, self._stops + self._verbatim)
        self._held = text[safe:]
        return text[:safe]

    def flush(self) -> str:
        """The rest, once nothing more will come."""
        rest, self._held = self._held, ""
        return rest

    def _first(self, text: str, old: int) -> tuple[int, int] | None:
        """(start, end) of the first stop string that ends behind the first `old` characters."""
        starts = [(text.find(stop, max(0, old + 1 - len(stop))), len(stop)) for stop in self._stops]
        return min(((at, at + length) for at, length in starts if at >= 0), default=None)


class Detokenizer:
    """The text of one sequence. Bytes that never become a character are shown as U+FFFD.

    Special tokens are no part of the text unless they are shown; a stop string may spell them all the same.
    """

    def __init__(
        self,
        stops: Sequence[str] = (),
        verbatim: Sequence[str] = (),
        *,
        specials: Mapping[int, str] | None = None,
        show_specials: bool = False,
        keep_stop: bool = False,
    ) -> None:
        """`specials`: the special tokens that count here, and their texts; `keep_stop`: the stop string that
        ends the text is a part of it.
        """
        self._specials = specials or {}
        self._keep_stop = keep_stop
        self._symbols: dict[int, str] = {}
        if not show_specials:
            self._symbols = {token: chr(SURROGATE + i) for i, token in enumerate(self._specials)}
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        written = [self._with_symbols(stop) for stop in stops]
        self._matcher = StopMatcher([*dict.fromkeys([*stops, *written])], verbatim)

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete."""
        return self._matcher.stopped

    def push(self, token_bytes: bytes, token: int = -1, *, may_stop: bool = True) -> str:
        """The text that became certain with one more token, whose bytes are `token_bytes`."""
        if token in self._specials:
            name = self._symbols.get(token, self._specials[token])
            text = self._utf8.decode(b"", final=True) + name
        else:
            text = self._utf8.decode(token_bytes)
        return self._shown(self._matcher.push(text, may_stop=may_stop))

    def flush(self, *, may_stop: bool = True) -> str:
        """What was held back; call once, at the end."""
        last = self._matcher.push(self._utf8.decode(b"", final=True), may_stop=may_stop)
        return self._shown(last + self._matcher.flush())

    def _with_symbols(self, stop: str) -> str:
        for token, symbol in sorted(self._symbols.items(), key=lambda item: -len(self._specials[item[0]])):
            stop = stop.replace(self._specials[token], symbol)
        return stop

    def _shown(self, text: str) -> str:
        """Without the special tokens that are hidden, and with the stop string where it is kept."""
        stop = self._matcher.found if self._keep_stop else ""
        for token, symbol in self._symbols.items():
            text, stop = text.replace(symbol, ""), stop.replace(symbol, self._specials[token])
        return text + stop
