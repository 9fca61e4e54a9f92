"""Gives special tokens texts that nothing else has, in a tokenizer's document.

Such a tokenizer tells how a model would write a text: it gives ordinary tokens, even where the text spells a
special one.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

Json = dict[str, Any]
RARE = "\ue000\ue001{}\ue001\ue000"
"""Characters of the private use area, which hardly any text has."""


def hidden(tokenizer: str, tokens: Collection[int]) -> str:
    """Returns tokenizer.json with these added tokens, all special, under other texts."""
    document: Json = json.loads(tokenizer)
    renamed: dict[str, str] = {}
    for added in document["added_tokens"]:
        if added["id"] in tokens:
            renamed[added["content"]] = RARE.format(added["id"])
            added |= {"content": renamed[added["content"]], "special": True, "normalized": False}
    _rename(document["model"], renamed)
    return json.dumps(document)


def _rename(model: Json, renamed: dict[str, str]) -> None:
    """Renames tokens in the vocabulary, which is an object or a list of pairs."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {renamed.get(piece, piece): token for piece, token in vocabulary.items()}
    else:
        model["vocab"] = [[renamed.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]
