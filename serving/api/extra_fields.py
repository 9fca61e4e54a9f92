"""Checks fields that we do not implement: accepted where they change nothing, refused where they would."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, TypeAdapter, ValidationError

from lathe.serving.http.limits import FieldError

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512, strict=True)]],
    Field(max_length=16),
]


class TextPiece(BaseModel):
    """A text part of a prediction."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class Prediction(BaseModel):
    """A guess of the answer, which could only make it faster."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["content"]
    content: str | list[TextPiece]


HARMLESS: dict[str, TypeAdapter[Any]] = {
    "user": TypeAdapter(StrictStr),
    "safety_identifier": TypeAdapter(StrictStr),
    "prompt_cache_key": TypeAdapter(StrictStr),
    "prompt_cache_retention": TypeAdapter(Literal["in_memory", "in-memory", "24h"]),
    "metadata": TypeAdapter(Metadata),
    "prediction": TypeAdapter(Prediction),
    "parallel_tool_calls": TypeAdapter(StrictBool),
    "prompt_cache_options": TypeAdapter(dict[str, Any]),
}
"""Fields that no answer depends on, whatever their value; it has to be of the right type all the same."""
ONLY_CHATS = "only /v1/chat/completions has it"
FOR_TEMPLATES = "use chat_template_kwargs, or reasoning_effort"
REASONS = {
    "store": "this server stores no answers; leave store out or send false",
    "service_tier": "this server has one service tier; leave service_tier out or send auto or default",
    "priority": "this server takes requests in the order in which they come",
    "request_id": "this server makes the ids of its answers itself",
    "audio": "the models are text-only",
    "modalities": "the models are text-only",
    "web_search_options": "this server reaches no network",
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
    "reasoning_effort": ONLY_CHATS,
    "chat_template_kwargs": ONLY_CHATS,
    "add_generation_prompt": ONLY_CHATS,
    "continue_final_message": ONLY_CHATS,
    "messages": "send them to /v1/chat/completions",
    "max_completion_tokens": "here it is max_tokens",
    "tools": ONLY_CHATS,
    "top_logprobs": "here logprobs is their number",
    "prompt": "send messages, or use /v1/completions",
    "input": "send it to /v1/responses",
    "max_output_tokens": "here it is max_tokens",
    "reasoning": FOR_TEMPLATES,
    "thinking": FOR_TEMPLATES,
    "enable_thinking": FOR_TEMPLATES,
    "include_reasoning": "thinking is always given, beside the content",
    "thinking_token_budget": "use max_tokens",
}
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
    "echo": (False,),
    "chat_template_kwargs": ({},),
    "verbosity": ("medium",),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "priority": (0,),
    "request_id": (),
    "audio": (),
    "web_search_options": (),
    "prompt_logprobs": (0,),
    "allowed_token_ids": ([],),
    "logprob_token_ids": ([],),
    "return_tokens_as_token_ids": (False,),
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_choice": (),
    "guided_regex": (),
    "guided_grammar": (),
    "guided_whitespace_pattern": (),
    "structural_tag": (),
    "chat_template": (),
    "truncate_prompt_tokens": (),
    "prompt_embeds": (),
    "reasoning_effort": (),
    "add_generation_prompt": (),
    "continue_final_message": (),
    "messages": (),
    "max_completion_tokens": (),
    "top_logprobs": (0,),
    "prompt": (),
    "input": (),
    "max_output_tokens": (),
    "reasoning": (),
    "thinking": (),
    "enable_thinking": (),
    "include_reasoning": (True,),
    "thinking_token_budget": (),
}
OLD = {"functions": "tools", "function_call": "tool_choice"}
"""Fields that others have replaced."""


def check_field(
    name: str, value: Any, known: list[str], neutral: Mapping[str, tuple[Any, ...]] = NEUTRAL
) -> None:
    """Checks that a field which is not in `known` leaves the answer as it is.

    Args:
        name: the field.
        value: its value in the request.
        neutral: values that change nothing, by field.
        known: fields that we implement.

    Raises:
        FieldError: the field is unknown, or its value is malformed or asks for something that is not
            supported.
    """
    shown = str(name)[:60]
    if name in HARMLESS:
        _check_type(shown, value)
    elif name in neutral:
        if not any(_same(value, usual) for usual in neutral[name]):
            reason = f": {REASONS[name]}" if name in REASONS else ""
            instead = f"; use {OLD[name]}" if name in OLD and OLD[name] in known else ""
            raise FieldError(shown, f"{shown} is not supported{reason}{instead}")
    else:
        near = difflib.get_close_matches(shown, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise FieldError(shown, f"unknown field {shown!r}{hint}")


def _check_type(name: str, value: Any) -> None:
    try:
        HARMLESS[name].validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join([name, *(str(part)[:60] for part in first["loc"])])
        raise FieldError(name, f"{path}: {first['msg']}") from None


def _same(value: Any, usual: Any) -> bool:
    """Returns whether two values are equal, where true is not 1."""
    return bool(value == usual) and isinstance(value, bool) == isinstance(usual, bool)
