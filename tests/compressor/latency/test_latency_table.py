"""The table finds planted coefficients, never negative ones, and its designs tell the terms apart."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, ModelShape, Plan
from lathe.compressor.latency.designs import designs
from lathe.compressor.latency.table import TERMS, LatencyTable, features, fit
from lathe.compressor.latency.workload import Workload
from lathe.compressor.search.space import make_space
from support.tiny_llama import PLANS

GQA = ModelShape(64, 120, 16, False, 4, LayerShape(8, 4, 96))
BIG = ModelShape(4096, 32_000, 128, False, 8, LayerShape(32, 8, 11_008))
FINE = ModelShape(768, 8192, 64, False, 8, LayerShape(12, 4, 1000))
MHA = ModelShape(64, 120, 16, False, 4, LayerShape(4, 4, 96))
PLANTED = np.array([1.0, 3.0, 0.5, 0.1, 0.05, 0.2, 0.01])
"""Milliseconds of the terms: step, head, attention, query_head, kv_head, ffn and channel."""
ONE_HEAD = ModelShape(64, 120, 16, False, 2, LayerShape(1, 1, 3))


def made(shape: ModelShape, layers: int = 4) -> list[Plan]:
    return designs(make_space(shape), shape.dense_plan, layers)


def timed(shape: ModelShape, layers: int = 4) -> tuple[list[Plan], list[float]]:
    """What a table is fitted to: designs with a quarter of the vocabulary, and dense with all of it."""
    plans = made(shape, layers)
    return [*plans, plans[0]], [*[0.25] * len(plans), 1.0]


def counts(shape: ModelShape, layers: int = 4, tile: int = 1) -> np.ndarray:
    return np.stack(
        [features(plan, tile, head=head) for plan, head in zip(*timed(shape, layers), strict=True)]
    )


@pytest.mark.parametrize("shape", [GQA, BIG])
def test_designs_tell_all_terms_apart(shape: ModelShape) -> None:
    rows = counts(shape)
    assert np.linalg.matrix_rank(rows) == len(TERMS)
    scaled = rows / rows.max(0)
    assert np.linalg.cond(scaled) < 300


@pytest.mark.parametrize("shape", [GQA, BIG, MHA, ONE_HEAD])
def test_designs_are_whole_models_of_the_space_dense_first(shape: ModelShape) -> None:
    plans, space = made(shape), make_space(shape)
    assert plans[0] == Plan((shape.layer,) * 4)
    assert len(set(plans)) == len(plans) <= 11
    for plan in plans:
        assert len(plan) == 4
        assert any(layer.kv_heads for layer in plan)
        for layer in plan:
            assert (layer.query_heads, layer.kv_heads) in space.attention
            assert layer.ffn in space.ffn
    assert plans == made(shape)


@given(st.tuples(st.floats(0.1, 10), st.floats(0, 10), *[st.floats(0, 0.5)] * 5))
def test_planted_terms_are_found(planted: tuple[float, ...]) -> None:
    plans, heads = timed(GQA)
    found, tile = fit(plans, counts(GQA) @ planted, heads)
    assert tile == 1
    np.testing.assert_allclose([found[t] for t in TERMS], planted, atol=1e-6)


@given(st.lists(st.floats(0.5, 2), min_size=20, max_size=20))
def test_terms_are_never_negative_and_explain_noisy_times(noise: list[float]) -> None:
    plans, heads = timed(GQA)
    times = (counts(GQA) @ PLANTED) * noise[: len(plans)]
    found, _ = fit(plans, times, heads)
    assert all(value >= 0 for value in found.values())
    assert sum(found.values()) > 0


def test_a_time_that_is_known_badly_counts_little() -> None:
    plans, heads = timed(GQA)
    times = counts(GQA) @ PLANTED
    times[4] *= 1.3
    errors = [0.005] * len(plans)
    misled, _ = fit(plans, times, heads, errors)
    errors[4] = 0.3
    found, _ = fit(plans, times, heads, errors)
    others = np.delete(counts(GQA), 4, axis=0)
    right, wrong = (
        np.abs(others @ [terms[name] for name in TERMS] / (others @ PLANTED) - 1).max()
        for terms in (found, misled)
    )
    assert right < 0.002 < 0.02 < wrong


@pytest.mark.parametrize("tile", [64, 128, 256])
def test_a_cliff_is_found_and_no_level_is_dearer_than_a_wider_one(tile: int) -> None:
    space, (plans, heads) = make_space(FINE), timed(FINE, 8)
    measured = counts(FINE, 8, tile) @ PLANTED
    terms, found = fit(plans, measured, heads)
    assert found == tile
    costs = table(terms=terms, tile=found).constraint(space, 5.0).ffn
    wide_to_narrow = [costs[w] for w in space.ffn]
    assert wide_to_narrow == sorted(wide_to_narrow, reverse=True)
    assert [
        fit(plans, measured * noise, heads)[1]
        for noise in (np.random.default_rng(0).normal(1, 0.001, (2, len(plans))))
    ] == [found] * 2


def table(**changes: object) -> LatencyTable:
    terms = dict(zip(TERMS, PLANTED, strict=True))
    row = {"plan": GQA.dense_plan.to_json(), "measured_ms": 12.0, "turns_ms": [12.0], "dense_ms": 12.0}
    facts = {"workload": Workload("ttft", 2, 64), "fingerprint": {"cores": 2}, "terms": terms, "rows": [row]}
    return LatencyTable(**{**facts, **changes})  # type: ignore[arg-type]


def test_predictions_are_sums_of_terms_and_corrections_multiply() -> None:
    plan = PLANS["mixed"]
    expected = 1 + 3 + 2 * 0.5 + 7 * 0.1 + 5 * 0.05 + 2 * 0.2 + 50 * 0.01
    assert table().predict(plan) == pytest.approx(expected)
    assert table().corrected(1.5).corrected(2).predict(plan) == pytest.approx(3 * expected)
    assert table().dense_ms == 12


def test_what_the_head_takes_is_a_part_and_pruning_cannot_save_it() -> None:
    corrected, plan = table().corrected(2), PLANS["mixed"]
    parts = corrected.parts(plan)
    assert parts["head"] == corrected.head_ms == 6
    assert parts["step"] + parts["head"] == corrected.fixed_ms == 8
    assert corrected.fixed_ms + sum(parts["attention"]) + sum(parts["ffn"]) == pytest.approx(
        corrected.predict(plan)
    )


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
        LatencyTable.from_json({"format": "lathe-latency/2"})
