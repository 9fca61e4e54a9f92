"""What a GGUF file's types did to the weights, kept beside the file."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from lathe.artefact.atomic_files import write_json
from lathe.artefact.manifest import read_json
from lathe.compressor.export.gguf.types import FLOATS
from lathe.compressor.export.gguf.writer import Written

FILE = "gguf.json"
MIXED = "mixed"
"""The scheme in which each block has its own type."""


def summary_of(
    scheme: str | None, before: int, written: Written, parity: dict[str, Any] | None
) -> dict[str, Any]:
    """Returns the summary: bytes, errors, and of every type its matrices and bytes; vectors count to F32.

    Args:
        scheme: What was asked for; None: nothing was quantized.
        before: The bytes of the weights as the checkpoint has them.
        written: What the file came to hold.
        parity: How far llama.cpp is from the reference, where it was checked.
    """
    types = {
        kind: {"matrices": written.matrices[kind], "bytes": size}
        for kind, size in sorted(written.bytes.items(), key=lambda item: -item[1])
    }
    size = {"before": before, "after": sum(written.bytes.values())}
    facts = {"types": types, "weight_bytes": size, "llama_cpp": parity}
    if scheme is None:
        return facts
    errors = written.errors
    moved = {"median": median(errors or [0.0]), "max": max(errors, default=0.0)}
    found = {"scheme": scheme, **facts, "relative_error": moved}
    if scheme != MIXED:
        return found
    names = {kind: "float" if kind in FLOATS else kind.lower() for kind in types}
    return {**found, "formats": {names[kind]: {"matrices": n} for kind, n in written.matrices.items() if n}}


def write_summary(directory: Path, summary: dict[str, Any]) -> None:
    """Keeps a summary in an artefact's directory.

    Raises:
        UserError: The file cannot be written.
    """
    write_json(directory / FILE, summary)


def read_summary(directory: Path) -> dict[str, Any]:
    """Returns the summary in an artefact's directory.

    Raises:
        UserError: It cannot be read.
    """
    return read_json(directory / FILE)
