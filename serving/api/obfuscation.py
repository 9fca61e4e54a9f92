"""OpenAI's `include_obfuscation`: hides token lengths, which the sizes of a stream's events reveal."""

from __future__ import annotations

import json
import secrets
import string

from lathe.serving.api.answer import Json

STEP = 64
"""Sizes of events, in bytes, are a multiple of this number plus a constant."""


def obfuscated(event: Json) -> Json:
    """Returns the event with random characters that round up its size."""
    size = len(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode())
    letters = (secrets.choice(string.ascii_letters) for _ in range(-size % STEP))
    return event | {"obfuscation": "".join(letters)}
