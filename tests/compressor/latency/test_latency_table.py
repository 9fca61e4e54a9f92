"""The table finds planted coefficients, never negative ones, and its designs tell the terms apart."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, ModelShape, Plan
from lathe.compressor.latency.table import TERMS, LatencyTable, designs, features, fit
from lathe.compressor.latency.workload import Workload
from lathe.compressor.search.space import make_space
from support.tiny_llama import PLANS

GQA = ModelShape(64, 120, 16, False, 4, LayerShape(8, 4, 96))
BIG = ModelShape(4096, 32_000, 128, False, 8, LayerShape(32, 8, 11_008))
FINE = ModelShape(768, 8192, 64, False, 8, LayerShape(12, 4, 1000))
MHA = ModelShape(64, 120, 16, False, 4, LayerShape(4, 4, 96))
ONE_HEAD = ModelShape(64, 120, 16, False, 2, LayerShape(1, 1, 3))


def made(shape: ModelShape, layers: int = 4) -> list[Plan]:
    return designs(make_space(shape), shape.dense_plan, layers)


@pytest.mark.parametrize("shape", [GQA, BIG])
def test_designs_tell_all_terms_apart(shape: ModelShape) -> None:
    rows = np.stack([features(plan) for plan in made(shape)])
    assert np.linalg.matrix_rank(rows) == len(TERMS)
    scaled = rows / rows.max(0)
    assert np.linalg.cond(scaled) < 300


@pytest.mark.parametrize("shape", [GQA, BIG, MHA, ONE_HEAD])
def test_designs_are_whole_models_of_the_space_dense_first(shape: ModelShape) -> None:
    plans, space = made(shape), make_space(shape)
    assert plans[0] == Plan((shape.layer,) * 4)
    assert len(set(plans)) == len(plans) < 20
    for plan in plans:
        assert len(plan) == 4
        assert any(layer.kv_heads for layer in plan)
        for layer in plan:
            assert (layer.query_heads, layer.kv_heads) in space.attention
            assert layer.ffn in space.ffn
    assert plans == made(shape)


@given(st.tuples(st.floats(0.1, 10), *[st.floats(0, 0.5)] * 5))
def test_planted_terms_are_found(planted: tuple[float, ...]) -> None:
    plans = made(GQA)
    found, tile = fit(plans, [float(features(p) @ planted) for p in plans])
    assert tile == 1
    np.testing.assert_allclose([found[t] for t in TERMS], planted, atol=1e-6)


@given(st.lists(st.floats(0.5, 2), min_size=20, max_size=20))
def test_terms_are_never_negative_and_explain_noisy_times(noise: list[float]) -> None:
    plans = made(GQA)
    exact = [float(features(p) @ (1, 0.5, 0.1, 0.05, 0.2, 0.01)) for p in plans]
    times = [t * n for t, n in zip(exact, noise, strict=False)]
    found, _ = fit(plans, times)
    assert all(value >= 0 for value in found.values())
    assert sum(found.values()) > 0


@pytest.mark.parametrize("tile", [64, 128, 256])
def test_a_cliff_is_found_and_no_level_is_dearer_than_a_wider_one(tile: int) -> None:
    space, plans = make_space(FINE), made(FINE, 8)
    planted = (1.0, 0.5, 0.1, 0.05, 0.2, 0.01)
    measured = [float(features(p, tile) @ planted) for p in plans]
    terms, found = fit(plans, measured)
    assert found == tile
    costs = table(terms=terms, tile=found).constraint(space, 5.0).ffn
    wide_to_narrow = [costs[w] for w in space.ffn]
    assert wide_to_narrow == sorted(wide_to_narrow, reverse=True)
    assert [
        fit(plans, [t * n for t, n in zip(measured, noise, strict=True)])[1]
        for noise in (np.random.default_rng(0).normal(1, 0.001, (2, len(plans))))
    ] == [found] * 2


def table(**changes: object) -> LatencyTable:
    terms = dict(zip(TERMS, (1.0, 0.5, 0.1, 0.05, 0.2, 0.01), strict=True))
    row = {"plan": GQA.dense_plan.to_json(), "measured_ms": 12.0, "turns_ms": [12.0], "dense_ms": 12.0}
    facts = {"workload": Workload("ttft", 2, 64), "fingerprint": {"cores": 2}, "terms": terms, "rows": [row]}
    return LatencyTable(**{**facts, **changes})  # type: ignore[arg-type]


def test_predictions_are_sums_of_terms_and_corrections_multiply() -> None:
    plan = PLANS["mixed"]
    expected = 1 + 2 * 0.5 + 7 * 0.1 + 5 * 0.05 + 2 * 0.2 + 50 * 0.01
    assert table().predict(plan) == pytest.approx(expected)
    assert table().corrected(1.5).corrected(2).predict(plan) == pytest.approx(3 * expected)
    assert table().dense_ms == 12


@pytest.mark.parametrize("name", PLANS)
def test_the_budget_of_a_table_costs_what_it_predicts(name: str) -> None:
    shape = ModelShape(64, 120, 16, False, 4, LayerShape(8, 4, 96))
    space, corrected = make_space(shape), table().corrected(1.1)
    plan = PLANS[name]
    if any((p.query_heads, p.kv_heads) not in space.attention or p.ffn not in space.ffn for p in plan):
        plan = space.smallest
    constraint = corrected.constraint(space, 5.0)
    assert constraint.limit == 5
    assert constraint.cost(plan) == pytest.approx(corrected.predict(plan))


def test_a_table_survives_json() -> None:
    saved = table().corrected(1.25)
    assert LatencyTable.from_json(json.loads(json.dumps(saved.to_json()))) == saved
    with pytest.raises(UserError, match="not a latency table"):
        LatencyTable.from_json({"format": "other"})
