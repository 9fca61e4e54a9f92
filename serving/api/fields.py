"""Fields that requests may have beside ours: taken where they change nothing, refused where they would."""

from __future__ import annotations

import difflib
from typing import Any

from serving.api.limits import FieldError

HARMLESS = frozenset(
    {
        "user",
        "store",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prediction",
        "parallel_tool_calls",
        "service_tier",
        "request_id",
        "priority",
    }
)
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "return_token_ids": (False,),
    "best_of": (0, 1),
    "suffix": ("",),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "min_p": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "add_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "include_stop_str_in_output": (False,),
    "stop_token_ids": ([],),
    "logit_processors": ([],),
    "bad_words": ([],),
    "documents": ([],),
    "detokenize": (True,),
    "echo": (False,),
    "chat_template_kwargs": ({},),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
}
OLD = {"functions": "tools", "function_call": "tool_choice"}
"""Fields that others have replaced."""


def check_field(name: str, value: Any, known: list[str]) -> None:
    """Whether a field that is not in `known` leaves the answer as it is.

    Raises:
        FieldError: it is unknown, or its value asks for something that is not supported.
    """
    if name in HARMLESS:
        return
    shown = str(name)[:60]
    if name in NEUTRAL:
        if any(value == neutral for neutral in NEUTRAL[name]):
            return
        instead = f"; use {OLD[name]}" if name in OLD and OLD[name] in known else ""
        raise FieldError(shown, f"{shown} is not supported{instead}")
    near = difflib.get_close_matches(shown, known, 1)
    raise FieldError(shown, f"unknown field {shown!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
