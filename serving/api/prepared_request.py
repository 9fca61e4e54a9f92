"""From a checked body to what the engine is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from lathe.serving.api.answer import Answer
from lathe.serving.api.schemas import GenerationBody
from lathe.serving.api.service import Service
from lathe.serving.backend import GenerationRequest
from lathe.serving.structured_output.grammar import Grammar


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A checked call: its sequences and how the answer is written."""

    requests: Sequence[GenerationRequest]
    writer: Answer


def generation_request(
    service: Service,
    body: GenerationBody,
    prompt: np.ndarray,
    *,
    arrived: float,
    max_tokens: int,
    logprobs: int | None,
    grammar: Grammar | None,
    index: int,
    choice: int,
    prompt_logprobs: bool = False,
    spelled: Mapping[int, bytes] = MappingProxyType({}),
    verbatim: tuple[str, ...] = (),
) -> GenerationRequest:
    """One sequence, as the fields say that all generation requests have in common."""
    shown = not body.skip_special_tokens
    specials = service.tokenizer.specials(body.stop, shown=shown)
    return GenerationRequest(
        prompt=prompt,
        sampling=body.sampling,
        max_tokens=max_tokens,
        arrived=arrived,
        index=index,
        choice=choice,
        min_tokens=body.min_tokens,
        stop=tuple(body.stop),
        stop_token_ids=frozenset(body.stop_token_ids),
        specials={token: text for token, text in specials.items() if token not in spelled},
        show_specials=shown,
        keep_stop=body.include_stop_str_in_output,
        ignore_eos=body.ignore_eos,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        grammar=grammar,
        cache_salt=body.cache_salt,
        spelled=spelled,
        verbatim=verbatim,
    )
