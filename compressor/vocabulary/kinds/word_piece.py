"""WordPiece: the longest token goes first, and stays the longest when tokens that a text lacks are gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lathe.compressor.vocabulary.kinds.base import Kind


class WordPiece(Kind):
    """BERT's tokenizer."""

    def _tokens(self) -> dict[str, int]:
        return dict(self.model["vocab"])

    def base(self) -> set[int]:
        """Returns all characters, at the beginning of a word and within, and the unknown token."""
        prefix = self.model.get("continuing_subword_prefix") or ""
        inner = {number for token, number in self.tokens.items() if len(token.removeprefix(prefix)) == 1}
        return self._characters() | inner | self._unknown()

    def cut(self, new: Mapping[int, int]) -> dict[str, Any]:
        """Returns the model with the kept tokens."""
        vocabulary = {token: new[number] for token, number in self.tokens.items() if number in new}
        return {**self.model, "vocab": vocabulary}
