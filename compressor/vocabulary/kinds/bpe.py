"""Byte-pair encoding: a kept token needs the tokens that merges make on the way to it.

BPE merges the pair of the best rank first. A word's merges stay the best ones when others are removed, and
those within a token do not depend on its neighbours. So a text keeps its tokens exactly if every token keeps
the merges that make it from its characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from lathe.compressor.vocabulary.kinds.base import Kind

_Pair = tuple[str, str]


class Bpe(Kind):
    """Byte-level BPE, and SentencePiece's with or without byte fallback."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        """Reads vocabulary and merges."""
        super().__init__(model)
        self._merges = [_pair(merge) for merge in model["merges"]]
        self._ranks = {pair: rank for rank, pair in enumerate(self._merges)}

    def _tokens(self) -> dict[str, int]:
        return dict(self.model["vocab"])

    def problem(self) -> str | None:
        """Returns the setting with which merges do not make the tokens that they are made of."""
        for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
            if value := self.model.get(name):
                return f"sets `{name}` to {value!r}"
        return None

    def base(self) -> set[int]:
        """Returns the characters, or bytes where any character falls back to them, and the unknown token."""
        return self._characters() | self._unknown()

    def parts(self, kept: Iterable[int]) -> set[int]:
        """Returns the ids of what merges make on the way to kept tokens."""
        names = {number: token for token, number in self.tokens.items()}
        made = (self._parts(names[number]) for number in kept if number in names)
        return {self.tokens[part] for parts in made for part in parts}

    def _parts(self, token: str) -> set[str]:
        """Returns the tokens that merges make on the way to one; none for one that no merges make."""
        symbols = list(token)
        if not all(symbol in self.tokens for symbol in symbols):
            return set()
        found = set(symbols)
        while len(symbols) > 1:
            pairs = list(pairwise(symbols))
            ranks = [self._ranks.get(pair, len(self._ranks)) for pair in pairs]
            at = min(range(len(ranks)), key=ranks.__getitem__)
            if ranks[at] == len(self._ranks):
                return set()
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            found.add(symbols[at])
        return found

    def cut(self, new: Mapping[int, int]) -> dict[str, Any]:
        """Returns the model with the kept tokens, and the merges of kept tokens that make one."""
        vocabulary = {token: new[number] for token, number in self.tokens.items() if number in new}
        kept = (pair for pair in self._merges if all(part in vocabulary for part in (*pair, "".join(pair))))
        return {**self.model, "vocab": vocabulary, "merges": [[*pair] for pair in kept]}


def _pair(merge: str | list[str]) -> _Pair:
    """Returns the two tokens of a merge; older files have them as one text, which may begin with a space."""
    if isinstance(merge, str):
        at = merge.index(" ", 1)
        return merge[:at], merge[at + 1 :]
    first, second = merge
    return first, second
