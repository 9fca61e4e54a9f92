"""Unigram: a word is split in the way with the best sum of scores, which stays the best among fewer ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lathe.compressor.vocabulary.kinds.base import BYTES, Kind


class Unigram(Kind):
    """SentencePiece's unigram model."""

    def _tokens(self) -> dict[str, int]:
        return {token: number for number, (token, _) in enumerate(self.model["vocab"])}

    def base(self) -> set[int]:
        """Returns all characters, the unknown token, and the token of the least score.

        A character without a token of its own counts as unknown, for a score that is below the least of all.
        """
        scores = [score for _, score in self.model["vocab"]]
        found = {number for token, number in self.tokens.items() if len(token) == 1 or token in BYTES}
        found.add(min(range(len(scores)), key=scores.__getitem__))
        unknown = self.model.get("unk_id")
        return found if unknown is None else found | {unknown}

    def cut(self, new: Mapping[int, int]) -> dict[str, Any]:
        """Returns the model with the kept tokens and their scores."""
        kept = [item for number, item in enumerate(self.model["vocab"]) if number in new]
        unknown = self.model.get("unk_id")
        return {**self.model, "vocab": kept, "unk_id": None if unknown is None else new[unknown]}
