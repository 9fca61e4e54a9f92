"""What is expected of the terms of rounded weights before any of them is timed: shares of the float32 terms.

Channels and the head cost what reading their weights does, heads read their weights and the KV cache, which
is not rounded, and the rest of a block is the same in all formats. The noisier the machine, the more these
count: a table of noisy times alone finds blocks of few bits that take nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SPREAD = 0.1
"""What a term may be off what is expected, as a share of the float32 term, where times have errors of 1 %."""
_LEAST_MS = 0.02
"""Of a block; expectations of less do not count."""
_SCALE_BITS = 32 / 64
"""Of a weight's part of the scale of its group."""


def expected_share(term: str, bits: int) -> float:
    """Returns what a term takes in so many bits, as a share of what it takes in float32."""
    weights = (bits + _SCALE_BITS) / 32
    if term in ("head", "channel"):
        return weights
    return (1 + weights) / 2 if term in ("query_head", "kv_head") else 1.0


def expectations(names: Sequence[str], values: np.ndarray, noise: float) -> np.ndarray:
    """Returns equations, a row each, whose right sides are 0, in units of the error of 1 % of a time.

    Args:
        names: Terms, those of a format as `name@bits`.
        values: Milliseconds of the terms as far as they are known.
        noise: The relative standard error of times.
    """
    known = dict(zip(names, values.tolist(), strict=True))
    heads = (known["query_head"] + known["kv_head"]) / 2
    sizes = dict.fromkeys(("query_head", "kv_head"), heads)
    rows = []
    for at, name in enumerate(names):
        term, _, bits = name.partition("@")
        if not bits:
            continue
        size = sizes.get(term, known[term])
        size = max(size, _LEAST_MS) if term in ("attention", "ffn") else size
        row, strength = np.zeros(len(names)), noise / (_SPREAD * max(size, 1e-9))
        row[at], row[names.index(term)] = strength, -strength * expected_share(term, int(bits))
        rows.append(row)
    return np.array(rows).reshape(-1, len(names))
