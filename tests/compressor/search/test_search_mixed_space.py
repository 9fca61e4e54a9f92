"""Levels of width and bits together, and the knapsack over them against trying every plan."""

from __future__ import annotations

import itertools
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lathe.artefact.plan import LayerShape, ModelShape, Plan, RoundedHeads, RoundedWidth
from lathe.compressor.search.knapsack import _repair, solve, total
from lathe.compressor.search.mixed_space import MixedSpace
from lathe.compressor.search.space import Constraint, Space, make_space, memory_constraint

TINY = MixedSpace(Space(((4, 2), (2, 1), (0, 0)), (32, 16, 0), 2), (8, 4))
LEVELS = [len(TINY.levels(kind)) for _, kind in TINY.blocks]
BINS = 4096


@st.composite
def spaces(draw: st.DrawFn) -> tuple[ModelShape, MixedSpace]:
    kv = draw(st.integers(1, 8))
    layer = LayerShape(kv * draw(st.integers(1, 4)), kv, draw(st.integers(1, 600)))
    shape = ModelShape(64, 1000, 16, draw(st.booleans()), draw(st.integers(1, 4)), layer)
    bits = draw(st.sampled_from([(8, 4), (8,), (4,), ()]))
    return shape, MixedSpace(make_space(shape), bits, draw(st.sampled_from([(0, 8, 4), (0, 8), (0,)])))


@given(spaces(), st.data())
def test_plans_and_indices_are_inverse(made: tuple[ModelShape, MixedSpace], data: st.DataObject) -> None:
    _, space = made
    levels = [len(space.levels(kind)) for _, kind in space.blocks]
    assert len(levels) == 2 * space.layers + 1
    indices = data.draw(st.tuples(*(st.integers(0, n - 1) for n in levels)).map(list))
    plan = space.plan(indices)
    assert space.indices(plan) == indices
    assert space.plan(space.indices(plan)) == plan
    assert len(plan) == space.layers
    for (layer, kind), index in zip(space.blocks, indices, strict=True):
        level = space.levels(kind)[index]
        if kind == "head":
            assert level == plan.head_bits
        else:
            assert level == (plan[layer].attention_level if kind == "attention" else plan[layer].ffn_level)
            width, bits = space.at(index)
            assert bits == plan[layer].bits(kind)
            assert space.widths.indices(plan.unrounded)[2 * layer + (kind == "ffn")] == width


@given(spaces())
def test_levels_are_those_of_every_width_the_most_bits_first(made: tuple[ModelShape, MixedSpace]) -> None:
    _, space = made
    for kind, plain in (("attention", space.widths.attention), ("ffn", space.widths.ffn)):
        levels = space.levels(kind)  # type: ignore[arg-type]
        assert len(set(levels)) == len(levels) == 1 + (len(plain) - 1) * (1 + len(space.bits))
        assert levels[0] == plain[0]
        assert levels[-1] == plain[-1], "the dropped block has no bits"
        assert list(levels[:: 1 + len(space.bits)]) == list(plain)
        rounded = [level for level in levels if isinstance(level, RoundedHeads | RoundedWidth)]
        assert [level.bits for level in rounded] == list(space.bits) * (len(plain) - 1)
    assert space.levels("head") == space.head


@given(spaces(), st.data())
def test_the_smallest_plan_takes_the_fewest_bytes(
    made: tuple[ModelShape, MixedSpace], data: st.DataObject
) -> None:
    shape, space = made
    bytes_of = {0: 4.0, 8: 1.1, 4: 0.6}
    memory = memory_constraint(space, shape, 1.0, weight_bytes=bytes_of, kv_bytes=4, tokens=0)
    levels = [len(space.levels(kind)) for _, kind in space.blocks]
    plan = space.plan(data.draw(st.tuples(*(st.integers(0, n - 1) for n in levels))))
    assert space.indices(space.smallest)
    assert memory.cost(space.smallest) <= memory.cost(plan) or not any(layer.kv_heads for layer in plan)
    weights = sum(
        bytes_of[layer.attention_bits] * shape.attention_parameters(layer)
        + bytes_of[layer.ffn_bits] * shape.ffn_parameters(layer)
        for layer in plan
    )
    assert memory.cost(plan) == pytest.approx(weights + bytes_of[plan.head_bits] * shape.parameters(()))


shares = st.tuples(st.floats(0.05, 1.5), st.floats(0.05, 1.5))
"""Of what a block takes unrounded, in 8 bits and in 4: rounding may make it dearer."""
four = st.tuples(*[st.floats(0.1, 10)] * 4).map(lambda costs: sorted(costs, reverse=True))


@st.composite
def budgets(draw: st.DrawFn, name: str = "a") -> Constraint:
    """A budget of any share of what the dense plan costs; costs fall with the widths."""
    costs, (eight, less) = draw(four), draw(shares)
    by_bits = {0: 1.0, 8: eight, 4: less}

    def of(width: float, bits: int) -> float:
        return width * by_bits[bits]

    heads = dict(zip(TINY.widths.attention, (costs[0], costs[2], 0.0), strict=True))
    widths = dict(zip(TINY.widths.ffn, (costs[1], costs[3], 0.0), strict=True))
    head = draw(st.floats(0.0, 5.0))
    eight_of_head, less_of_head = draw(st.tuples(st.floats(0.1, 1.0), st.floats(0.1, 1.0)))
    dense = 2 * (costs[0] + costs[1]) + head
    return Constraint(
        name,
        "units",
        draw(st.floats(0.02, 1)) * dense,
        0.0,
        {
            x: of(heads[x.heads], x.bits) if isinstance(x, RoundedHeads) else heads[x]
            for x in TINY.levels("attention")
        },
        {
            x: of(widths[x.width], x.bits) if isinstance(x, RoundedWidth) else widths[x]
            for x in TINY.levels("ffn")
        },
        {0: head, 8: head * eight_of_head, 4: head * less_of_head},
    )


@st.composite
def sensitivities(draw: st.DrawFn) -> np.ndarray:
    """Each width's, rising as it narrows, plus that of rounding, which falls with what is kept."""
    table = np.empty(len(LEVELS), dtype=object)
    for block in range(len(LEVELS) - 1):
        widths = np.cumsum([0.0, *draw(st.tuples(st.floats(0, 1), st.floats(0, 1)))])
        eight, less = sorted(draw(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5))))
        kept = (1.0, 0.5, 0.0)
        table[block] = np.array(
            [
                widths[width] + kept[width] * (0.0, eight, less)[bits]
                for width in range(3)
                for bits in (range(3) if width < 2 else range(1))
            ]
        )
    table[-1] = np.array([0.0, *sorted(draw(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5))))])
    return table


def summed(rows: list[np.ndarray]) -> np.ndarray:
    """The sums of every choice of one value from each row."""
    return reduce(np.add.outer, rows)


def best(table: np.ndarray, constraints: list[Constraint], slack: float = 0.0) -> float:
    """The least summed sensitivity of all plans that spend at most (1 - slack) of every budget."""
    allowed = np.ones(LEVELS, dtype=bool)
    for c in constraints:
        costs = summed([np.array(c.costs(TINY, kind)) for _, kind in TINY.blocks])
        allowed &= costs + c.outside(TINY) <= c.limit * (1 - slack)
    return float(summed(list(table))[allowed].min(initial=np.inf))


def value(table: np.ndarray, constraints: list[Constraint]) -> float:
    plan = solve(TINY, table, constraints)
    if plan is None:
        return float("inf")
    assert all(c.allows(plan) for c in constraints)
    return total(TINY, table, plan)


def test_every_plan_is_tried() -> None:
    assert LEVELS == [7, 7, 7, 7, 3]
    plans = {TINY.plan(indices) for indices in itertools.product(*map(range, LEVELS))}
    assert len(plans) == 7**4 * 3
    assert Plan((LayerShape(4, 2, 16, ffn_bits=4), LayerShape(0, 0, 32, ffn_bits=8)), 8) in plans


@settings(max_examples=80, deadline=None)
@given(sensitivities(), budgets())
def test_one_budget_is_solved_up_to_its_bins(table: np.ndarray, budget: Constraint) -> None:
    found = value(table, [budget])
    assert best(table, [budget], -1e-9) - 1e-9 <= found
    assert found <= best(table, [budget], len(LEVELS) / BINS) + 1e-9


@settings(max_examples=80, deadline=None)
@given(sensitivities(), budgets("a"), budgets("b"))
def test_two_budgets_are_both_kept(table: np.ndarray, a: Constraint, b: Constraint) -> None:
    """Formats may be cheap in one and dear in the other."""
    found, least = value(table, [a, b]), best(table, [a, b], -1e-9)
    assert found >= least - 1e-9
    assert np.isfinite(found) == np.isfinite(least)


@settings(max_examples=80, deadline=None)
@given(sensitivities(), budgets("a"), budgets("b"), st.tuples(*(st.integers(0, n - 1) for n in LEVELS)))
def test_repairs_keep_both_budgets_and_make_no_block_dearer(
    table: np.ndarray, a: Constraint, b: Constraint, start: tuple[int, ...]
) -> None:
    repaired = _repair(TINY, table, [a, b], list(start))
    if repaired is None:
        floor = [min(c.costs(TINY, "head")) for c in (a, b)]
        spent = [c.costs(TINY, "head")[start[-1]] for c in (a, b)]
        assert floor != spent or any(c.limit < least for c, least in zip((a, b), floor, strict=True))
        return
    assert all(c.allows(TINY.plan(repaired)) for c in (a, b))
    for c in (a, b):
        for (_, kind), before, after in zip(TINY.blocks, start, repaired, strict=True):
            assert c.costs(TINY, kind)[after] <= c.costs(TINY, kind)[before]
    if all(c.allows(TINY.plan(start)) for c in (a, b)):
        assert repaired == list(start)
