"""The rows of a benchmark's document that an interrupted run left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError


def kept_rows(out: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of a document with these settings; none where there is no document.

    Raises:
        UserError: the document is of other settings.
    """
    if not out.exists():
        return []
    document = json.loads(out.read_text(encoding="utf-8"))
    if any(document.get(name) != value for name, value in settings.items()):
        raise UserError(f"{out} has rows of other settings", "Give another --out, or remove it.")
    rows: list[dict[str, Any]] = document["rows"]
    return rows
