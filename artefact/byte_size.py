"""Sizes of memory as people write them."""

from __future__ import annotations

import re

from lathe.artefact.errors import UserError


def parse_bytes(text: str) -> int:
    """Parses `6GiB` or `500MB` as bytes.

    Raises:
        UserError: it is no size, or none above 0.
    """
    match = re.fullmatch(r"\s*([0-9]{0,15}\.?[0-9]{1,15})\s*([kmgt]?)(i?)b\s*", text.lower())
    if not match or float(match[1]) <= 0:
        raise UserError(f"`{text}` is not a memory size", "Write it like 6GiB or 500MB.")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kmgt".index(match[2] or " "))
