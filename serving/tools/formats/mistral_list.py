"""Mistral up to its tokenizer version 7: `[TOOL_CALLS]` and a list of objects, each perhaps with an id."""

from __future__ import annotations

from lathe.serving.tools.call_format import Mark, Slot, ToolCallFormat
from lathe.serving.tools.registry import register

FORM = register(
    ToolCallFormat(
        name="mistral_list",
        vllm_parser="mistral",
        fits=lambda chat: "[TOOL_CALLS]" in chat and "[ARGS]" not in chat,
        opening=Mark("[TOOL_CALLS]"),
        before=("[",),
        head=('{"name": "', Slot.NAME, '", "arguments": '),
        tails=(("}",), (', "id": "', Slot.ID, '"}')),
        more=(", ",),
        closing=("]",),
        nine_char_ids=True,
    )
)
