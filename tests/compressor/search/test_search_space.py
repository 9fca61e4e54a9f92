"""The space: legal widths only, and costs that are those of whole models."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, ModelShape, Plan
from lathe.artefact.vllm.limits import check_parallel
from lathe.artefact.width_rules import WidthRules
from lathe.compressor.search.space import Space, make_space, memory_constraint, parameter_constraint


@st.composite
def shapes(draw: st.DrawFn) -> ModelShape:
    kv = draw(st.integers(1, 40))
    layer = LayerShape(kv * draw(st.integers(1, 8)), kv, draw(st.integers(1, 20_000)))
    return ModelShape(
        64,
        1000,
        16,
        draw(st.booleans()),
        draw(st.integers(1, 6)),
        layer,
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
    )


@given(shapes())
def test_levels_are_legal_widest_first_and_end_with_the_dropped_block(shape: ModelShape) -> None:
    space, dense = make_space(shape), shape.layer
    assert space.attention[0] == (dense.query_heads, dense.kv_heads)
    assert space.attention[-1] == (0, 0)
    assert len(set(space.attention)) == len(space.attention)
    for query, kv in space.attention[:-1]:
        assert query % kv == 0
        assert kv <= dense.kv_heads
        assert 1 <= query // kv <= dense.heads_per_group
    assert space.ffn[0] == dense.ffn
    assert space.ffn[-1] == 0
    assert list(space.ffn) == sorted(set(space.ffn), reverse=True)
    assert len(space.ffn) <= 35
    aligned = [w for w in space.ffn[1:] if w]
    step = aligned[-1] if aligned else 1
    assert step & (step - 1) == 0
    assert all(width % step == 0 for width in aligned)
    assert step < 2 * max(1, dense.ffn / 32)


@st.composite
def spaces_under_rules(draw: st.DrawFn) -> tuple[ModelShape, WidthRules, int, int, Space]:
    """A model that some devices can share in multiples of a size, and its space."""
    devices, multiple = draw(st.sampled_from((1, 2, 3, 4, 8))), draw(st.sampled_from((1, 8, 32)))
    head_dim = draw(st.sampled_from((16, 32, 48, 64, 128)))
    kv = draw(st.integers(1, 40))
    layer = LayerShape(kv * draw(st.integers(1, 8)), kv, devices * multiple * draw(st.integers(1, 600)))
    shape = ModelShape(64, 1000, head_dim, True, draw(st.integers(1, 4)), layer)
    rules = WidthRules.of(devices, multiple, head_dim)
    assume(rules.allow(layer))
    return shape, rules, devices, multiple, make_space(shape, rules)


@given(spaces_under_rules(), st.sampled_from((2, 4, 8, 16)))
def test_fewer_widths_are_among_those_of_more(
    made: tuple[ModelShape, WidthRules, int, int, Space], levels: int
) -> None:
    shape, rules, _, _, space = made
    fewer = make_space(shape, rules, levels)
    assert len(fewer.widths) - 1 <= levels  # the dropped block comes on top
    assert {*fewer.widths} <= {*space.widths}
    assert fewer.widths[0] == shape.layer.ffn
    assert fewer.attention == space.attention


@given(spaces_under_rules(), st.data())
def test_every_plan_of_a_space_keeps_its_rules(
    made: tuple[ModelShape, WidthRules, int, int, Space], data: st.DataObject
) -> None:
    shape, rules, devices, multiple, space = made
    levels = [len(space.levels(kind)) for _, kind in space.blocks]
    plan = space.plan(data.draw(st.tuples(*(st.integers(0, n - 1) for n in levels))))
    rules.check(plan)
    check_parallel(plan, devices)
    for layer in plan:
        read_on_each = (layer.query_heads / devices * shape.head_dim, layer.ffn / devices)
        assert all(size % multiple == 0 for size in read_on_each)


@given(spaces_under_rules())
def test_rules_leave_as_many_levels_as_there_are(
    made: tuple[ModelShape, WidthRules, int, int, Space],
) -> None:
    shape, rules, devices, multiple, space = made
    dense = shape.layer
    assert space.attention[0] == (dense.query_heads, dense.kv_heads)
    assert space.ffn[0] == dense.ffn
    allowed = [
        kv
        for kv in range(1, dense.kv_heads + 1)
        if any(rules.allow_attention(kv * h, kv) for h in range(1, dense.heads_per_group + 1))
    ]
    kept = {kv for _, kv in space.attention if kv}
    assert kept <= set(allowed)
    assert len(kept) >= min(len(allowed), 5)
    assert len(space.ffn) >= min(dense.ffn // (devices * multiple), 16)


@pytest.mark.parametrize(
    ("layer", "rules", "message"),
    [
        (
            LayerShape(9, 3, 96),
            WidthRules(2),
            "2 devices cannot share layer 0 .* with --tensor-parallel 1, 3.",
        ),
        (
            LayerShape(8, 4, 96),
            WidthRules(16),
            "The dense model can be served with --tensor-parallel 1, 2, 4, 8.",
        ),
        (LayerShape(8, 4, 96), WidthRules.of(2, 32, 32), "in sizes that quantized kernels take. .* 1."),
        (
            LayerShape(8, 4, 100),
            WidthRules.of(1, 32, 32),
            "layer 0 .* They take FFN channels in multiples of 32.",
        ),
        (LayerShape(3, 3, 96), WidthRules.of(1, 32, 16), "query heads in multiples of 2, FFN .* of 32."),
    ],
)
def test_a_dense_model_that_breaks_the_rules_is_refused(
    layer: LayerShape, rules: WidthRules, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_space(ModelShape(64, 1000, 16, True, 2, layer), rules)


@given(shapes(), st.data())
def test_costs_add_up_to_those_of_the_whole_model(shape: ModelShape, data: st.DataObject) -> None:
    space = make_space(shape)
    levels = [len(space.levels(kind)) for _, kind in space.blocks]
    indices = data.draw(st.tuples(*(st.integers(0, n - 1) for n in levels)).map(list))
    plan = space.plan(indices)
    assert space.indices(plan) == indices
    parameters = parameter_constraint(space, shape, 0.5)
    assert parameters.cost(plan) == shape.decoder_parameters(plan)
    assert parameters.limit == 0.5 * shape.decoder_parameters(shape.dense_plan)
    memory = memory_constraint(space, shape, 1e9, weight_bytes={0: 4}, kv_bytes=2, tokens=100)
    assert memory.cost(plan) == shape.weight_bytes(plan, 4) + 100 * shape.kv_bytes_per_token(plan, 2)
    assert memory.cost(plan) >= memory.cost(space.smallest) or not any(p.kv_heads for p in plan)


@pytest.mark.parametrize(("limit", "allowed"), [(99, False), (100, True), (101, True)])
def test_a_budget_may_be_spent_to_the_last(limit: int, allowed: bool) -> None:
    shape = ModelShape(4, 10, 2, True, 1, LayerShape(2, 2, 8))
    constraint = parameter_constraint(make_space(shape), shape, 1.0)
    scaled = constraint.cost(shape.dense_plan) * limit / 100
    assert (
        type(constraint)("x", "y", scaled, 0.0, constraint.attention, constraint.ffn).allows(shape.dense_plan)
        == allowed
    )
    assert Plan(()).uneven is False
