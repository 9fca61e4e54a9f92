"""Selects vLLM's parser of tool calls by the chat template."""

from __future__ import annotations

from pathlib import Path

from lathe.artefact.errors import UserError
from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.tools.dialect import dialect_of


def tool_arguments(model: Path) -> list[str]:
    """Returns vLLM's arguments for a model whose template shows tools in a form that we know.

    For other models vLLM refuses tools by itself. It gives none to templates that call them otherwise, and
    its
    parsers look for the token of the opening.
    """
    if not (model / "tokenizer.json").exists():
        return []
    try:
        tokenizer = Tokenizer(model)
    except UserError:
        return []
    if not tokenizer.has_chat_template or "xml_tools" in tokenizer.chat_template:
        return []
    dialect = dialect_of(tokenizer.render_chat)
    if dialect is None or dialect.form is None or tokenizer.token(dialect.form.opening) is None:
        return []
    return ["--enable-auto-tool-choice", "--tool-call-parser", dialect.form.vllm_parser]
