"""Items of a multiple-choice task, for lm-eval's task files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def write_items(file: Path, choices: Sequence[str]) -> None:
    """Writes 30 items with these choices, as JSON lines."""
    rows = [
        {"question": f"The {i}th fox jumps over {i * 7} lazy", "choices": choices, "answer": i % 3}
        for i in range(30)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
