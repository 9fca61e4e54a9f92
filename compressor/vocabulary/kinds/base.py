"""The interface of a kind of tokenizer that can be cut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

BYTES = tuple(f"<0x{value:02X}>" for value in range(256))
"""The tokens that byte fallback writes any character with."""


class Kind(ABC):
    """The `model` of a tokenizer.json.

    Attributes:
        model: The part of the document.
        tokens: The ids of its tokens.
    """

    def __init__(self, model: Mapping[str, Any]) -> None:
        """Reads the vocabulary."""
        self.model = model
        self.tokens = self._tokens()

    @abstractmethod
    def _tokens(self) -> dict[str, int]:
        """Returns the id of every token."""

    def problem(self) -> str | None:
        """Returns the setting with which it cannot be cut, as the end of a sentence; None without one."""
        return None

    @abstractmethod
    def base(self) -> set[int]:
        """Returns the ids with which any text can be written."""

    def parts(self, kept: Iterable[int]) -> set[int]:  # noqa: ARG002
        """Returns the ids without which a text would lose kept tokens."""
        return set()

    @abstractmethod
    def cut(self, new: Mapping[int, int]) -> dict[str, Any]:
        """Returns the model with the kept tokens only, their new ids by the old ones."""

    @property
    def _falls_back(self) -> bool:
        """Whether every character can be written as bytes."""
        return bool(self.model.get("byte_fallback")) and all(byte in self.tokens for byte in BYTES)

    def _characters(self) -> set[int]:
        """Returns the ids of the tokens that any character can be written with."""
        if self._falls_back:
            return {self.tokens[byte] for byte in BYTES}
        return {number for token, number in self.tokens.items() if len(token) == 1}

    def _unknown(self) -> set[int]:
        """Returns the id of the unknown token; empty without one."""
        unknown = self.model.get("unk_token")
        return {self.tokens[unknown]} if unknown in self.tokens else set()
