"""Selects vLLM's parser of tool calls by the chat template."""

from __future__ import annotations

from pathlib import Path

from lathe.artefact.errors import UserError
from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.tools.template_support import tool_support_of


def tool_arguments(model: Path) -> list[str]:
    """Returns vLLM's arguments for a model whose template shows tools in a format that we know.

    For other models vLLM refuses tools by itself: it passes none to templates that name them otherwise, and
    its parsers look for the token of the opening.
    """
    if not (model / "tokenizer.json").exists():
        return []
    try:
        tokenizer = Tokenizer(model)
    except UserError:
        return []
    if not tokenizer.has_chat_template or "xml_tools" in tokenizer.chat_template:
        return []
    support = tool_support_of(tokenizer.render_chat)
    if support is None or support.format is None or tokenizer.token(support.format.opening) is None:
        return []
    return ["--enable-auto-tool-choice", "--tool-call-parser", support.format.vllm_parser]
