"""The whole models that a latency table is fitted to: their widths and formats differ on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lathe.artefact.plan import Heads, LayerShape, Plan, RoundedHeads, RoundedWidth, Width
from lathe.compressor.search.space import Choices


def formats_of(space: Choices) -> tuple[int, ...]:
    """Returns the bits that blocks may have, 0 (the checkpoint's values) first, then the most bits first."""
    levels = (*space.levels("attention"), *space.levels("ffn"))
    rounded = {level.bits for level in levels if isinstance(level, RoundedHeads | RoundedWidth)}
    return 0, *sorted(rounded, reverse=True)


def designs(
    space: Choices, dense: Plan, layers: int, formats: tuple[int, ...] = (0,), seed: int = 0
) -> list[Plan]:
    """Returns whole models of `layers` layers that identify the terms.

    Dense comes first, then models with one kind of block narrowed or dropped in every layer, then three
    random mixtures: at most 11 in all, 13 with experts, fewer where some are the same. For every further one
    of `formats` there are five models that have it in all blocks, and then three random mixtures of formats
    and widths.
    """
    heads, widths = _without_bits(space)
    top, rng = dense[0], np.random.default_rng(seed)
    plans = _unrounded(heads, widths, top, layers)
    plans += [_mixture(heads, widths, (0,), layers, rng) for _ in range(3)]
    for bits in formats[1:]:
        plans += [plan.in_bits(bits, 0) for plan in _few(heads, widths, top, layers)]
    if formats[1:]:
        plans += [_mixture(heads, widths, formats, layers, rng) for _ in range(3)]
    return list(dict.fromkeys(plans))


def _without_bits(space: Choices) -> tuple[list[Heads], list[Width]]:
    """Returns the levels of both blocks whatever their formats, widest first, without the dropped block."""
    heads = [level.heads if isinstance(level, RoundedHeads) else level for level in space.levels("attention")]
    widths = [level.width if isinstance(level, RoundedWidth) else level for level in space.levels("ffn")]
    return list(dict.fromkeys(heads))[:-1], list(dict.fromkeys(widths))[:-1]


def _unrounded(heads: list[Heads], widths: list[Width], top: LayerShape, layers: int) -> list[Plan]:
    """Returns dense, and models with one kind of block narrowed or dropped."""
    inner = _spread(widths[1:], 3)
    channels = [width for width in widths if isinstance(width, int)]
    swaps = [
        top,
        LayerShape.of(_half(heads, top), top.width),
        LayerShape.of((0, 0), top.width),
        LayerShape.of((top.kv_heads, top.kv_heads), top.width),
        *(
            LayerShape.of(top.heads, width)
            for width in dict.fromkeys([*(inner if top.experts else inner[-1:]), *_across_a_tile(channels)])
        ),
        LayerShape(top.query_heads, top.kv_heads, 0),
    ]
    plans = [Plan((swap,) * layers) for swap in swaps]
    plans[2] = Plan((top, *[swaps[2]] * (layers - 1)))
    return plans


def _few(heads: list[Heads], widths: list[Width], top: LayerShape, layers: int) -> list[Plan]:
    """Returns five models that tell the terms of one format apart, where those of another are known."""
    narrow = _spread(widths[1:], 3)[-1:] or [top.width]
    swaps = [
        top,
        LayerShape.of(_half(heads, top), top.width),
        LayerShape.of((top.kv_heads, top.kv_heads), top.width),
        LayerShape.of(top.heads, narrow[0]),
    ]
    without = LayerShape.of((0, 0), top.width)
    return [*(Plan((swap,) * layers) for swap in swaps), Plan((top, *[without] * (layers - 1)))]


def _half(heads: list[Heads], top: LayerShape) -> Heads:
    """Returns about half of the KV heads, with as many query heads for each as in the dense model."""
    groups = sorted({kv for _, kv in heads})
    kv = groups[len(groups) // 2 - 1] if len(groups) > 1 else groups[0]
    return kv * top.heads_per_group, kv


def _mixture(
    heads: list[Heads],
    widths: list[Width],
    formats: tuple[int, ...],
    layers: int,
    rng: np.random.Generator,
) -> Plan:
    """Returns a model whose blocks have random widths and formats."""

    def layer() -> LayerShape:
        shape = LayerShape.of(heads[rng.integers(len(heads))], widths[rng.integers(len(widths))])
        if len(formats) == 1:
            return shape
        attention, ffn = (formats[rng.integers(len(formats))] for _ in range(2))
        return replace(shape, attention_bits=attention, ffn_bits=ffn)

    return Plan(tuple(layer() for _ in range(layers)))


def _across_a_tile(widths: list[int]) -> list[int]:
    """Returns the roundest level in the middle half, and the next wider one.

    If there is a cliff, it is between them.
    """
    inner = [i for i in range(len(widths)) if widths[0] // 4 <= widths[i] <= 3 * widths[0] // 4]
    if not inner or inner[0] == 0:
        return []
    roundest = max(inner, key=lambda i: widths[i] & -widths[i])
    return widths[roundest - 1 : roundest + 1]


def _spread(values: list[Width], count: int) -> list[Width]:
    if len(values) <= count:
        return list(values)
    return [values[round((i + 1) * (len(values) - 1) / (count + 1))] for i in range(count)]
