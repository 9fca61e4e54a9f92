"""From tokens to text, one token at a time: whole UTF-8 characters only, and stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


def longest_start(text: str, words: Sequence[str]) -> int:
    """Length of the longest end of `text` that is the start of one of `words`, and not all of it."""
    longest = max((len(word) for word in words), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(word.startswith(text[-length:]) for word in words):
            return length
    return 0


class StopMatcher:
    """Lets text through until a stop string is complete; holds back what may be the start of one. From one of
    `verbatim` on, nothing is a stop string."""

    def __init__(self, stops: Sequence[str], verbatim: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._verbatim = tuple(verbatim) if stops else ()
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """What may be shown after `text` arrived."""
        if self.stopped:
            return ""
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if any(0 <= text.find(start) < min(found, default=len(text)) for start in self._verbatim):
            self._stops = self._verbatim = ()
            self._held = ""
            return text
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        safe = len(text) - longest_start(text, self._stops + self._verbatim)
        self._held = text[safe:]
        return text[:safe]

    def flush(self) -> str:
        """The rest, once nothing more will come."""
        rest, self._held = self._held, ""
        return rest


class TextStream:
    """The text of one sequence. Bytes that never become a character are shown as U+FFFD."""

    def __init__(self, stops: Sequence[str] = (), verbatim: Sequence[str] = ()) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._matcher = StopMatcher(stops, verbatim)

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete."""
        return self._matcher.stopped

    def push(self, piece: bytes) -> str:
        """The text that became certain with the bytes of one more token."""
        return self._matcher.push(self._utf8.decode(piece))

    def flush(self) -> str:
        """What was held back; call once, at the end."""
        return self._matcher.push(self._utf8.decode(b"", final=True)) + self._matcher.flush()
