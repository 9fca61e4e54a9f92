"""The API key of a server: given itself, or in a file."""

from __future__ import annotations

import os
from pathlib import Path

from lathe.artefact.errors import UserError


def read_api_key(key: str | None, file: Path | None) -> str | None:
    """Returns the API key that clients must send.

    Raises:
        UserError: both are given, or one of them is empty: no server is open by mistake.
    """
    if file is None:
        given = os.environ.get("LATHE_API_KEY") if key is None else key
        if given is not None and not given.strip():
            raise UserError("the API key is empty", "Give one, or neither --api-key nor $LATHE_API_KEY.")
        if os.environ.get("LATHE_API_KEY_FILE") == "":
            raise UserError("$LATHE_API_KEY_FILE names no file", "Name one, or do not set it.")
        return key
    if key is not None:
        raise UserError("both an API key and a file with one are given", "Give one of them.")
    try:
        found = file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the API key in {file}: {error}") from None
    if not found:
        raise UserError(f"{file} holds no API key", "Put the key on its first line.")
    return found
