"""Plans: legal shapes, JSON, and arithmetic against the parameters of real models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.model.families import resolve
from support.tiny_llama import CONFIG, PLANS, VARIANTS, checkpoint, dense_model


@st.composite
def layers(draw: st.DrawFn) -> LayerShape:
    kv = draw(st.integers(0, 64))
    return LayerShape(kv * draw(st.integers(1, 32)), kv, draw(st.integers(0, 2**20)))


@given(st.lists(layers(), max_size=80))
def test_a_plan_survives_json(shapes: list[LayerShape]) -> None:
    plan = Plan(tuple(shapes))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize("widths", [(-1, 1, 1), (4, 0, 1), (0, 2, 1), (3, 2, 1), (4, 2, -8)])
def test_impossible_layers_are_refused(widths: tuple[int, int, int]) -> None:
    with pytest.raises(UserError):
        LayerShape(*widths)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        '{"format": "lathe-plan/1"}',
        '{"format": "lathe-plan/1", "layers": [{"ffn": 3}]}',
        '{"format": "lathe-plan/1", "layers": [7]}',
        '{"format": "lathe-plan/9", "layers": []}',
        "[]",
        "3",
    ],
)
def test_a_file_that_holds_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError):
        Plan.load(tmp_path / "plan.json")


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none.json"):
        Plan.load(tmp_path / "none.json")


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_those_of_transformers(variant: str) -> None:
    config = CONFIG | VARIANTS[variant] | {"model_type": "llama"}
    shape, model = resolve(config).shape(config), dense_model(**VARIANTS[variant])
    assert shape.parameters(shape.dense_plan) == sum(p.numel() for p in model.parameters())
    decoder = sum(p.numel() for p in model.model.layers.parameters())
    assert shape.decoder_parameters(shape.dense_plan) == decoder
    assert shape.weight_bytes(shape.dense_plan, 2) == 2 * shape.parameters(shape.dense_plan)


def test_dropped_blocks_cost_nothing_and_cached_heads_are_the_kept_ones(tmp_path: Path) -> None:
    shape = checkpoint(tmp_path).shape
    whole, mixed = PLANS["dense"], PLANS["mixed"]
    assert shape.attention_parameters(mixed[0]) == shape.ffn_parameters(mixed[3]) == 0
    assert shape.decoder_parameters([mixed[2]]) == 0
    assert shape.kv_bytes_per_token(whole, 4) == 4 * 2 * 4 * 4 * 16
    assert shape.kv_bytes_per_token(mixed, 4) == 4 * 2 * (3 + 2) * 16
    assert whole.replace(1, LayerShape(0, 0, 0)).uneven
    assert not whole.uneven
