"""Mistral from its tokenizer version 11 on: `[TOOL_CALLS]name[ARGS]{...}` for each call.

Versions 11 and 12 put the call's id between the two.
"""

from __future__ import annotations

from lathe.serving.tools.call_format import Mark, Slot, ToolCallFormat
from lathe.serving.tools.registry import register

CALLS, ARGS, CALL_ID = Mark("[TOOL_CALLS]"), Mark("[ARGS]"), Mark("[CALL_ID]")

FORM = register(
    ToolCallFormat(
        name="mistral_args",
        vllm_parser="mistral",
        fits=lambda chat: CALLS in chat and ARGS in chat and CALL_ID not in chat,
        opening=CALLS,
        head=(Slot.NAME, ARGS),
        tails=((),),
        nine_char_ids=True,
    )
)
FORM_WITH_IDS = register(
    ToolCallFormat(
        name="mistral_call_id",
        vllm_parser="mistral",
        fits=lambda chat: CALLS in chat and ARGS in chat and CALL_ID in chat,
        opening=CALLS,
        head=(Slot.NAME, CALL_ID, Slot.ID, ARGS),
        tails=((),),
        nine_char_ids=True,
    )
)
