"""Log-probabilities of tokens, in the form of chats and responses."""

from __future__ import annotations

from typing import Any

from lathe.serving.decoding.sampling import TokenLogprob
from lathe.serving.decoding.tokenizer import Tokenizer

Json = dict[str, Any]


def describe_logprob(tokenizer: Tokenizer, entry: TokenLogprob) -> Json:
    """Returns a token with its log-probability, and the likeliest tokens in its place."""
    top = [_entry(tokenizer, token, logprob) for token, logprob in entry.top]
    return _entry(tokenizer, entry.token, entry.logprob) | {"top_logprobs": top}


def _entry(tokenizer: Tokenizer, token: int, logprob: float | None) -> Json:
    data = tokenizer.display_bytes(token)
    return {"token": data.decode(errors="replace"), "logprob": logprob, "bytes": list(data)}
