"""Qwen 2.5, Qwen 3, SmolLM3, Hermes: `<tool_call>` around an object with a name and arguments."""

from __future__ import annotations

import re

from lathe.serving.tools.call_format import Mark, Slot, ToolCallFormat
from lathe.serving.tools.registry import register

_CALL = re.compile(r'<tool_call>\s*\{"name": ')

FORM = register(
    ToolCallFormat(
        name="hermes",
        vllm_parser="hermes",
        fits=lambda chat: _CALL.search(chat) is not None and "<function=" not in chat,
        opening=Mark("<tool_call>"),
        before=("\n",),
        head=('{"name": "', Slot.NAME, '", "arguments": '),
        tails=(("}\n", Mark("</tool_call>")),),
    )
)
