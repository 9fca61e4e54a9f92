"""The document of a comparison, kept on disk as it grows."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from benchmarks.quality.score import machine
from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError

Row = dict[str, Any]
PROGRAM = "benchmarks.search"


class Document:
    """Rows of one model, text and table; those that the file has are kept.

    Args:
        path: The file.
        settings: What all rows have in common; a file of others is refused.

    Raises:
        UserError: the file has rows of other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self._settings = path, settings
        self.rows: list[Row] = []
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if any(found.get(name) != value for name, value in settings.items()):
                raise UserError(f"{path} has rows of other settings", "Give another --out, or remove it.")
            self.rows = found["rows"]

    def has(self, engine: str, budget: str) -> bool:
        """Tells whether the rows of an engine on a budget are there."""
        return any((row["engine"], row["budget"]) == (engine, budget) for row in self.rows)

    def add(self, rows: list[Row], **facts: Any) -> None:
        """Adds rows and writes the file."""
        self.rows += rows
        self.path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "command": shlex.join(["python", "-m", PROGRAM, *sys.argv[1:]]),
            **self._settings,
            "unit": "nats per token",
            "machine": machine(),
            **facts,
            "rows": self.rows,
        }
        write_json(self.path, document)
