"""The tokens that a text uses, and those that the chat template writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lathe.artefact.tokenizer import chat_token_ids
from lathe.compressor.calibration.chat import reading, token_ids
from lathe.compressor.calibration.documents import ReadingLog
from lathe.compressor.calibration.sources import read_documents
from lathe.compressor.vocabulary.refusal import refusal

_PROBES = (
    "In 2024, 12345.67 dollars; it's WE'LL  do\n\n\tna\u00efve cafe\u0301!!",
    "\u4e16\u754c \u041c\u043e\u0441\u043a\u0432\u0430 \U0001f642 \u0e20\u0e32\u0e29\u0e32 zxqj",
)
"""Texts that a text for a vocabulary is unlikely to have."""


@dataclass(frozen=True)
class Usage:
    """A text, document by document, and the tokens of each.

    Attributes:
        name: What the text was called by.
        documents: Its documents.
        ids: [tokens of a document] of each.
        template: The tokens that the chat template writes.
    """

    name: str
    documents: Sequence[str]
    ids: Sequence[np.ndarray]
    template: frozenset[int]

    @property
    def used(self) -> set[int]:
        """The ids of all tokens that occur."""
        return set(self.template).union(*(np.unique(ids).tolist() for ids in self.ids))

    def check(self, before: Any, after: Any, new: Sequence[int]) -> None:
        """Checks that another tokenizer splits the text into the same tokens, and writes any other text.

        Args:
            before: The tokenizer that the text was split by.
            after: The other tokenizer.
            new: Its id of each token of the first, -1 for a token that it does not have.

        Raises:
            UserError: It does not.
        """
        numbers = np.asarray(new)
        for document, ids in zip(self.documents, self.ids, strict=True):
            if token_ids(after, document) != numbers[ids].tolist():
                raise refusal(f"without the tokens that it does not use, {self.name} is split into others")
        for probe in _PROBES:
            if _returned(after, probe) != _returned(before, probe):
                raise refusal("the smaller tokenizer does not write every text")


def usage(tokenizer: Any, text: str, log: ReadingLog) -> Usage:
    """Returns the tokens of a text and of the chat template.

    Raises:
        UserError: There is no such text, or it cannot be read.
    """
    documents = read_documents(text, reading(tokenizer, log))
    ids = [np.array(token_ids(tokenizer, document), dtype=np.int32) for document in documents]
    template = set(tokenizer(str(tokenizer.chat_template or ""), verbose=False)["input_ids"])
    return Usage(text, documents, ids, frozenset(template.union(chat_token_ids(tokenizer))))


def _returned(tokenizer: Any, text: str) -> str:
    """Returns a text as the tokenizer gives it back."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
