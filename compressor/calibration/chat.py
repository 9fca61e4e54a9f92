"""Chats as text: by the chat template of the tokenizer that will read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lathe.artefact.errors import UserError
from lathe.compressor.calibration.documents import ChatText, Reading, ReadingLog, Render, SilentLog


def reading(tokenizer: Any, log: ReadingLog | None = None) -> Reading:
    """Files are read for a model with this tokenizer."""
    return Reading(_renderer(tokenizer), log or SilentLog())


def token_ids(tokenizer: Any, document: str) -> list[int]:
    """A document's tokens, with those that the tokenizer adds; a chat has its own."""
    plain = not isinstance(document, ChatText)
    return list(tokenizer(document, add_special_tokens=plain, verbose=False)["input_ids"])


def _renderer(tokenizer: Any) -> Render:
    import jinja2

    def render(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None) -> str:
        if not tokenizer.chat_template:
            raise UserError(
                "the model's tokenizer has no chat template",
                "Give the text itself, or a model with a chat template.",
            )
        try:
            return str(tokenizer.apply_chat_template(list(messages), tools=tools, tokenize=False))
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise UserError(f"the model's chat template refuses it: {error}") from None

    return render
