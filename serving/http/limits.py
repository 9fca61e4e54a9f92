"""Errors about one field, and size limits that are checked before a body is validated in detail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class FieldError(ValueError):
    """An error about one field, found by a validator of the whole body."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one request may hold: how many prompts, and tokens in each."""

    prompts: int
    tokens: int

    def check(self, prompt: Any) -> None:
        """Checks the size of a prompt.

        Raises:
            FieldError: it is too large.
        """
        if not isinstance(prompt, list):
            return
        several = bool(prompt) and isinstance(prompt[0], list | str)
        if len(prompt) > (self.prompts if several else self.tokens):
            what = f"{self.prompts} prompts" if several else f"{self.tokens} tokens"
            raise FieldError("prompt", f"prompt has {len(prompt)} parts; this server takes {what}")
        if several and any(isinstance(one, list) and len(one) > self.tokens for one in prompt):
            raise FieldError("prompt", f"a prompt has more than this server's {self.tokens} tokens")
