"""How a model that is one GGUF file is told from a directory, and where such a file is in an artefact."""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".gguf"
MODEL_FILE = f"model{SUFFIX}"
"""An artefact's GGUF export, in its directory."""


def is_gguf(model: str | Path) -> bool:
    """Returns whether a model is given as a GGUF file."""
    path = Path(model).expanduser()
    return path.suffix.lower() == SUFFIX and path.is_file()
