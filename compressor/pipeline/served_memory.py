"""The bytes that a plan takes as it is served: its weights by their bits, and the KV cache."""

from __future__ import annotations

import math

from lathe.compressor.export import exporters
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.search.space import Choices, Constraint, memory_constraint


def served_memory(
    options: CompressOptions, source: Checkpoint, space: Choices, limit: float = math.inf, tokens: int = 0
) -> Constraint:
    """Returns the bytes of plans in what is served, as a constraint.

    Args:
        options: What is served, and the bits that blocks may have.
        source: The dense model.
        space: The levels of blocks.
        limit: Bytes.
        tokens: Tokens in the KV cache.
    """
    shape, exporter = source.shape, exporters.get(options.served)
    stored = {bits: exporter.stored_in(source, bits) for bits in (0, *options.block_bits)}
    return memory_constraint(
        space,
        shape,
        limit,
        weight_bytes={bits: values.weight for bits, values in stored.items()},
        kv_bytes=cache_value_bytes(options, source),
        tokens=tokens,
        fixed={bits: stored[bits].fixed(shape) for bits in space.levels("head")},
    )


def cache_value_bytes(options: CompressOptions, source: Checkpoint) -> int:
    """Returns the bytes of a value in the KV cache of what is served."""
    return 1 if options.int8_cache else int(exporters.get(options.served).stored(source).cache)
