"""OpenAI's `include_obfuscation`: the sizes of a stream's events do not tell the lengths of its tokens."""

from __future__ import annotations

import json
import secrets
import string

from lathe.serving.api.answer import Json

STEP = 64
"""Sizes of events, in bytes, are multiples of it and some constant."""


def obfuscated(event: Json) -> Json:
    """The event with random characters that round up its size."""
    size = len(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode())
    letters = (secrets.choice(string.ascii_letters) for _ in range(-size % STEP))
    return event | {"obfuscation": "".join(letters)}
