"""Spaces in which every block may be rounded, and plans that use them."""

from __future__ import annotations

import random

from lathe.artefact.plan import LayerShape, ModelShape, Plan
from lathe.compressor.search.mixed_space import MixedSpace
from lathe.compressor.search.space import Choices, make_space

WITHOUT, EIGHT, BOTH = (0,), (0, 8), (0, 8, 4)
"""Formats that a space may have."""


def rounded_space(shape: ModelShape, formats: tuple[int, ...] = BOTH) -> Choices:
    """The space of a model with every level in every format, the dropped block last."""
    plain = make_space(shape)
    return MixedSpace(plain, formats[1:], (0, 8)) if formats[1:] else plain


def random_plans(space: Choices, layers: int, count: int, head_bits: int = 0) -> list[Plan]:
    """Plans whose every block has any level, dropped ones too."""
    rng, heads, widths = random.Random(0), space.levels("attention"), space.levels("ffn")
    return [
        Plan(
            tuple(LayerShape.of(rng.choice(heads), rng.choice(widths)) for _ in range(layers)),
            head_bits,
        )
        for _ in range(count)
    ]
