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
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "logit_processors": ([],),
    "bad_words": ([],),
    "documents": ([],),
    "detokenize": (True,),
    "priority": (0,),
    "prompt_logprobs": (0,),
    "allowed_token_ids": ([],),
    "logprob_token_ids": ([],),
    "return_tokens_as_token_ids": (False,),
    "structured_outputs": ({},),
    "chat_template_kwargs": ({},),
    "echo": (False,),
    "verbosity": ("medium",),
}
INSTEAD = {
    "structured_outputs": "use response_format",
    "guided_json": "use response_format with type json_schema",
    "guided_choice": "use response_format with type json_schema and an enum",
    "guided_regex": "use response_format with type json_schema and a pattern",
    "guided_grammar": "use response_format with type json_schema",
    "guided_whitespace_pattern": "use response_format with type json_schema",
    "structural_tag": "use response_format with type json_schema",
    "chat_template": "the model's own is used",
    "truncate_prompt_tokens": "send a prompt that fits",
    "prompt_embeds": "send prompt",
    "reasoning_effort": "only chats have it",
    "chat_template_kwargs": "only chats have them",
    "add_generation_prompt": "only chats have it",
    "continue_final_message": "only chats have it",
}
"""What to do without a field that others know."""


def check_field(name: str, value: Any, known: list[str]) -> None:
    """Whether a field that is not in `known` leaves the answer as it is.

    Raises:
        FieldError: it is unknown, or its value asks for something that is not supported.
    """
    if name in HARMLESS:
        return
    shown = str(name)[:60]
    if any(_same(value, neutral) for neutral in NEUTRAL.get(name, ())):
        return
    if name in NEUTRAL or name in INSTEAD:
        hint = f"; {INSTEAD[name]}" if name in INSTEAD else ""
        raise FieldError(shown, f"{shown} is not supported" + hint)
    near = difflib.get_close_matches(shown, known, 1)
    raise FieldError(shown, f"unknown field {shown!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def _same(value: Any, neutral: Any) -> bool:
    """Equal, and not a truth value for a number or the other way round."""
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)
