"""Converts tokens to text one at a time: only whole UTF-8 characters, up to a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence

SURROGATE = 0xD800
"""Lone surrogates never come out of UTF-8: each stands for one special token while the text is searched."""


def longest_start(text: str, words: Sequence[str]) -> int:
    """Returns the length of the longest end of `text` that is a proper prefix of one of `words`."""
    longest = max((len(word) for word in words), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(word.startswith(text[-length:]) for word in words):
            return length
    return 0


class StopMatcher:
    """Lets text through until a stop string is complete; holds back what may be the start of one.

    From one of the `no_stops_after` strings on, there are no stop strings.
    """

    def __init__(self, stops: Sequence[str], no_stops_after: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._no_stops_after = tuple(no_stops_after) if stops else ()
        self._held = ""
        self.found = ""
        """The stop string that is complete."""

    @property
    def stopped(self) -> bool:
        """True once a stop string is complete."""
        return bool(self.found)

    def push(self, text: str, *, may_stop: bool = True) -> str:
        """Returns what may be shown after `text` arrived; no stop string ends in it unless it `may_stop`."""
        if self.stopped:
            return ""
        old, text = len(self._held), self._held + text
        place = self._first(text, old) if may_stop else None
        end = len(text) if place is None else place[0]
        if any(0 <= text.find(start) < end for start in self._no_stops_after):
            self._stops = self._no_stops_after = ()
            self._held = ""
            return text
        if place is not None:
            self.found, self._held = text[slice(*place)], ""
            return text[:end]
        safe = len(text) - longest_start(text, self._stops + self._no_stops_after)
        self._held = text[safe:]
        return text[:safe]

    def flush(self) -> str:
        """Returns the rest, once nothing more will come."""
        rest, self._held = self._held, ""
        return rest

    def _first(self, text: str, old: int) -> tuple[int, int] | None:
        """Returns (start, end) of the first stop string that ends after the first `old` characters."""
        starts = [(text.find(stop, max(0, old + 1 - len(stop))), len(stop)) for stop in self._stops]
        return min(((at, at + length) for at, length in starts if at >= 0), default=None)


class Detokenizer:
    """The text of one sequence. Bytes that never become a character are shown as U+FFFD.

    Special tokens are not part of the text unless they are shown; a stop string may spell them all the same.
    """

    def __init__(
        self,
        stops: Sequence[str] = (),
        no_stops_after: Sequence[str] = (),
        *,
        special_tokens: Mapping[int, str] | None = None,
        show_specials: bool = False,
        keep_stop: bool = False,
    ) -> None:
        """Creates a detokenizer at the start of a text.

        Args:
            stops: strings that end the text.
            no_stops_after: strings from which on there are no stop strings.
            special_tokens: texts of the special tokens that count here.
            show_specials: whether special tokens are part of the text.
            keep_stop: whether the stop string that ends the text is a part of it.
        """
        self._special_tokens = special_tokens or {}
        self._keep_stop = keep_stop
        self._symbols: dict[int, str] = {}
        if not show_specials:
            self._symbols = {token: chr(SURROGATE + i) for i, token in enumerate(self._special_tokens)}
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        written = [self._with_symbols(stop) for stop in stops]
        self._matcher = StopMatcher([*dict.fromkeys([*stops, *written])], no_stops_after)

    @property
    def stopped(self) -> bool:
        """True once a stop string is complete."""
        return self._matcher.stopped

    def push(self, token_bytes: bytes, token: int = -1, *, may_stop: bool = True) -> str:
        """Returns the text that became certain with one more token, whose bytes are `token_bytes`."""
        if token in self._special_tokens:
            name = self._symbols.get(token, self._special_tokens[token])
            text = self._utf8.decode(b"", final=True) + name
        else:
            text = self._utf8.decode(token_bytes)
        return self._shown(self._matcher.push(text, may_stop=may_stop))

    def flush(self, *, may_stop: bool = True) -> str:
        """Returns what was held back; call once, at the end."""
        last = self._matcher.push(self._utf8.decode(b"", final=True), may_stop=may_stop)
        return self._shown(last + self._matcher.flush())

    def _with_symbols(self, stop: str) -> str:
        for token, symbol in sorted(
            self._symbols.items(), key=lambda item: -len(self._special_tokens[item[0]])
        ):
            stop = stop.replace(self._special_tokens[token], symbol)
        return stop

    def _shown(self, text: str) -> str:
        """Removes the special tokens that are hidden, and adds the stop string where it is kept."""
        stop = self._matcher.found if self._keep_stop else ""
        for token, symbol in self._symbols.items():
            text, stop = text.replace(symbol, ""), stop.replace(symbol, self._special_tokens[token])
        return text + stop
