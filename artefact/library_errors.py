"""Turns the errors of other libraries into one sentence for our users."""

from __future__ import annotations

import re

_ADVICE = re.compile(
    r"trust_remote_code|=\s*(True|False)\b|from_pretrained|from_config"
    r"|\bpass(ing)?\b.*\b(argument|parameter|token|config)"
    r"|hf auth login|huggingface-cli|git-lfs|hf\.co/|You can inspect|restart your runtime",
    re.IGNORECASE,
)
"""Sentences about arguments of calls that our commands do not have."""
_LONGEST = 300


def reason(error: BaseException) -> str:
    """The message of an exception, in one line, without advice that only its callers in Python can take."""
    message = str(error).strip().partition(" Errors: ")[0]  # what follows repeats it for every type
    sentences = re.split(r"(?<=[.!?:])\s+|\n+", message)
    kept = " ".join(s.strip() for s in sentences if s.strip() and not _ADVICE.search(s))
    if not kept or isinstance(error, LookupError | AssertionError | AttributeError | TypeError):
        kept = f"{type(error).__name__}: {kept}".removesuffix(": ")
    return kept if len(kept) <= _LONGEST else kept[:_LONGEST].rsplit(" ", 1)[0] + " ..."
