"""Latencies of plans from a few timed models: exact where a format makes head and blocks faster alike."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lathe.artefact.plan import LayerShape, ModelShape, Plan
from lathe.compressor.latency.ends import Ends
from lathe.compressor.latency.rough_table import RoughTable
from lathe.compressor.search.space import make_space
from support.rounded_space import BOTH, random_plans, rounded_space

SHAPE = ModelShape(576, 49_152, 64, True, 30, LayerShape(9, 3, 1536))
STEP, HEAD, DECODER = 0.7, 4.0, 16.0
SHARES = {0: 1.0, 8: 0.5, 4: 0.3}


def true_ms(plan: Plan) -> float:
    blocks = sum(
        SHARES[part.attention_bits or part.ffn_bits] * DECODER * SHAPE.kept((part,))
        for layer in plan
        for part in (LayerShape.of(layer.attention_level, 0), LayerShape.of((0, 0), layer.ffn_level))
    )
    return STEP + SHARES[plan.head_bits] * HEAD + blocks


def solved(smallest: Plan, formats: tuple[int, ...]) -> RoughTable:
    dense = true_ms(SHAPE.dense_plan)
    ends = Ends(dense, dense, true_ms(smallest), SHARES[smallest.head_bits] * HEAD)
    ratios = {bits: true_ms(SHAPE.dense_plan.in_bits(bits, bits)) / dense for bits in formats}
    return RoughTable.of(SHAPE, ends, smallest, ratios)


def test_plans_of_widths_and_bits_take_what_they_take() -> None:
    space = rounded_space(SHAPE, BOTH)
    table = solved(replace(space.smallest, head_bits=4), BOTH[1:])
    for plan in random_plans(space, 30, 20, head_bits=8):
        assert table.predict(plan) == pytest.approx(true_ms(plan), rel=1e-6)
        limit = table.constraint(space, 5.0)
        assert limit.cost(plan) == pytest.approx(table.predict(plan), rel=1e-9)


def test_plans_of_widths_alone_need_nothing_rounded() -> None:
    space = make_space(SHAPE)
    table = solved(space.smallest, ())
    for plan in random_plans(space, 30, 20):
        assert table.predict(plan) == pytest.approx(true_ms(plan), rel=1e-6)


def test_noise_makes_no_part_negative() -> None:
    smallest = make_space(SHAPE).smallest
    table = RoughTable.of(SHAPE, Ends(10.0, 10.0, 10.5, 10.4), smallest, {8: 1.02})
    assert min(table.step, table.head, table.decoder, *table.shares.values()) >= 0
