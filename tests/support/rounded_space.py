"""Spaces in which every block may be rounded, and plans that use them."""

from __future__ import annotations

import random
from typing import Any

from lathe.artefact.plan import LayerShape, ModelShape, Plan, RoundedHeads, RoundedWidth
from lathe.compressor.search.space import Space, make_space

WITHOUT, EIGHT, BOTH = (0,), (0, 8), (0, 8, 4)
"""Formats that a space may have."""


def rounded_space(shape: ModelShape, formats: tuple[int, ...] = BOTH) -> Space:
    """The space of a model with every level in every format, the dropped block last."""
    plain = make_space(shape)
    heads: Any = [RoundedHeads(h, bits) if bits else h for h in plain.attention[:-1] for bits in formats]
    widths: Any = [RoundedWidth(w, bits) if bits else w for w in plain.ffn[:-1] for bits in formats]
    return Space((*heads, plain.attention[-1]), (*widths, plain.ffn[-1]), plain.layers)


def random_plans(space: Space, layers: int, count: int, head_bits: int = 0) -> list[Plan]:
    """Plans whose every block has any level, dropped ones too."""
    rng = random.Random(0)
    return [
        Plan(
            tuple(LayerShape.of(rng.choice(space.attention), rng.choice(space.ffn)) for _ in range(layers)),
            head_bits,
        )
        for _ in range(count)
    ]
