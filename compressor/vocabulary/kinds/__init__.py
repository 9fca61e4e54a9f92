"""The kinds of tokenizers that can be cut, by the `type` that a tokenizer.json gives its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lathe.compressor.vocabulary.kinds.base import Kind
from lathe.compressor.vocabulary.kinds.bpe import Bpe
from lathe.compressor.vocabulary.kinds.unigram import Unigram
from lathe.compressor.vocabulary.kinds.word_piece import WordPiece
from lathe.compressor.vocabulary.refusal import refusal

_KINDS: dict[str, type[Kind]] = {"BPE": Bpe, "Unigram": Unigram, "WordPiece": WordPiece}


def kind_of(model: Mapping[str, Any], place: str) -> Kind:
    """Returns what can cut the `model` of a tokenizer.json.

    Args:
        model: The part of the document.
        place: What the file is called in a message.

    Raises:
        UserError: A tokenizer of this type or with these settings cannot be cut.
    """
    name = model.get("type")
    if name == "WordLevel":
        raise refusal(f"{place} is of the type `WordLevel`, which could not write a word that was cut")
    if name not in _KINDS:
        raise refusal(f"{place} is of the type `{name}`, and Lathe cuts {', '.join(_KINDS)}")
    kind = _KINDS[name](model)
    if problem := kind.problem():
        raise refusal(f"{place} {problem}")
    return kind
