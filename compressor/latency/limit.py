"""The most that pruning can reach: what a step takes besides the blocks, in milliseconds and not in bytes."""

from __future__ import annotations

from lathe.artefact.report_format import PruningLimit


def pruning_limit(dense_ms: float, left_ms: float, head_ms: float) -> PruningLimit:
    """Returns what no pruned block shortens as shares of a step, and the speed-up without any block.

    Args:
        dense_ms: Milliseconds of the dense model.
        left_ms: Milliseconds of the model without blocks, or of its smallest subnet.
        head_ms: Those of them that the head takes.
    """
    return {
        "head_ms": head_ms,
        "head_share": head_ms / dense_ms,
        "ms": left_ms,
        "share": left_ms / dense_ms,
        "speedup": dense_ms / left_ms,
    }
