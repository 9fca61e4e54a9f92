"""Converts a checked body to requests for the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lathe.serving.api.answer import Answer
from lathe.serving.api.schemas import GenerationBody
from lathe.serving.api.service import Service
from lathe.serving.backend import GenerationRequest


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A checked request.

    Attributes:
        requests: its sequences.
        writer: makes what writes the answer, from the model that answers.
    """

    requests: Sequence[GenerationRequest]
    writer: Callable[[Service], Answer]


def with_common_fields(
    service: Service, body: GenerationBody, request: GenerationRequest
) -> GenerationRequest:
    """Returns a request with the fields that all bodies of generation requests have in common."""
    shown = not body.skip_special_tokens
    special_tokens = service.tokenizer.special_tokens(body.stop, shown=shown)
    return replace(
        request,
        min_tokens=body.min_tokens,
        stop=tuple(body.stop),
        stop_token_ids=frozenset(body.stop_token_ids),
        special_tokens={
            token: text for token, text in special_tokens.items() if token not in request.visible_tokens
        },
        show_specials=shown,
        keep_stop=body.include_stop_str_in_output,
        ignore_eos=body.ignore_eos,
        cache_salt=body.cache_salt,
    )
