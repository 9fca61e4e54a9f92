"""Llama 3.1 to 3.3: the answer is one object with a name and parameters, perhaps behind `<|python_tag|>`."""

from __future__ import annotations

import re

from lathe.serving.tools.call_format import Mark, Slot, ToolCallFormat
from lathe.serving.tools.registry import register

_CALL = re.compile(r'\{"name": "\w+", "parameters": \{')

FORM = register(
    ToolCallFormat(
        name="llama3_json",
        vllm_parser="llama3_json",
        fits=lambda chat: _CALL.search(chat) is not None,
        opening=Mark("<|python_tag|>"),
        head=('{"name": "', Slot.NAME, '", "parameters": '),
        tails=(("}",),),
        bare=True,
        several=False,
    )
)
