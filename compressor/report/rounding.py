"""What is said of weights that are stored rounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def rounding(report: Mapping[str, Any]) -> str | None:
    """A sentence; None where the weights are stored as they are."""
    if "quantization" not in report:
        return None
    stored = report["quantization"]
    size = f"Stored as {stored['scheme']}, {stored['weight_bytes']['after'] / 2**20:.2f} MiB"
    if "perplexity" not in stored:
        return f"{size}; all other figures are from before rounding."
    after = stored["perplexity"]
    return f"{size}: perplexity {after['dense']:.2f} (dense), {after['subnet']:.2f} (subnet) after rounding."
