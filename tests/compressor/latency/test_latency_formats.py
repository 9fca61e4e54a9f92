"""Tables of several formats of weights: their models tell all terms apart, and each block costs its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, ModelShape, Plan, RoundedHeads, RoundedWidth
from lathe.compressor.latency.cache import cached_table
from lathe.compressor.latency.designs import designs, formats_of
from lathe.compressor.latency.ends import Ends
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.table import (
    ROUNDED_TERMS,
    TERMS,
    LatencyTable,
    features,
    fit,
    occurring,
)
from lathe.compressor.latency.workload import Workload
from lathe.compressor.search.mixed_space import MixedSpace
from lathe.compressor.search.space import make_space
from support.rounded_space import BOTH, EIGHT, WITHOUT, random_plans, rounded_space
from support.tiny_llama import PLANS, checkpoint
from support.virtual_machine import ROW_MS, SHARES, Told, VirtualMachine, undisturbed_ms

GQA = ModelShape(64, 120, 16, False, 4, LayerShape(8, 4, 96))
BIG = ModelShape(4096, 32_000, 128, False, 8, LayerShape(32, 8, 11_008))
MHA = ModelShape(64, 120, 16, True, 4, LayerShape(4, 4, 96))
ONE_KV_HEAD = ModelShape(640, 1000, 256, True, 6, LayerShape(4, 1, 2048))
ONE_HEAD = ModelShape(64, 120, 16, False, 2, LayerShape(1, 1, 3))
SHAPES = pytest.mark.parametrize("shape", [GQA, BIG, MHA, ONE_KV_HEAD, ONE_HEAD])
FORMATS = pytest.mark.parametrize("formats", [WITHOUT, EIGHT, BOTH, (0, 4)])
WIDE = 30_000


def timed(shape: ModelShape, formats: tuple[int, ...]) -> tuple[list[Plan], list[float]]:
    """What a table is fitted to: designs with a quarter of the vocabulary, and heads with all of it."""
    plans = designs(rounded_space(shape, formats), shape.dense_plan, 4, formats)
    whole = [plans[0], *([replace(plans[0], head_bits=8)] if formats[1:] else [])]
    return [*plans, *whole], [*[0.25] * len(plans), *[1.0] * len(whole)]


def names(plans: list[Plan]) -> list[str]:
    return [*TERMS, *occurring(ROUNDED_TERMS, plans)]


def counts(plans: list[Plan], heads: list[float]) -> np.ndarray:
    return np.stack([features(p, 1, names(plans), head) for p, head in zip(plans, heads, strict=True)])


@FORMATS
@pytest.mark.parametrize("shape", [GQA, BIG])
def test_designs_tell_the_terms_of_all_formats_apart(shape: ModelShape, formats: tuple[int, ...]) -> None:
    plans, heads = timed(shape, formats)
    rows = counts(plans, heads)
    rounded = len(formats) - 1
    assert rows.shape[1] == len(TERMS) + 5 * rounded + bool(rounded)
    assert np.linalg.matrix_rank(rows) == rows.shape[1]
    assert np.linalg.cond(rows / rows.max(0)) < 300


@FORMATS
@SHAPES
def test_designs_are_whole_models_of_the_space_those_without_bits_first(
    shape: ModelShape, formats: tuple[int, ...]
) -> None:
    space = rounded_space(shape, formats)
    plans = designs(space, shape.dense_plan, 4, formats)
    plain = designs(make_space(shape), shape.dense_plan, 4)
    assert formats_of(space) == formats
    assert designs(space, shape.dense_plan, 4) == plain == plans[: len(plain)]
    rounded = plans[len(plain) :]
    assert len(set(plans)) == len(plans)
    assert len(rounded) <= 5 * len(formats[1:]) + 3 * bool(formats[1:])
    assert all(plan.rounded for plan in rounded)
    for layer in (layer for plan in plans for layer in plan):
        assert layer.attention_level in space.levels("attention")
        assert layer.ffn_level in space.levels("ffn")


@pytest.mark.parametrize("formats", [EIGHT, BOTH])
@given(planted=st.tuples(st.floats(0.1, 10), *[st.floats(0, 10)] * 17))
def test_planted_terms_are_found(formats: tuple[int, ...], planted: tuple[float, ...]) -> None:
    plans, heads = timed(GQA, formats)
    rows = counts(plans, heads)
    found, tile = fit(plans, rows @ planted[: rows.shape[1]], heads)
    assert tile == 1
    np.testing.assert_allclose([found[t] for t in names(plans)], planted[: rows.shape[1]], atol=1e-5)


@FORMATS
@SHAPES
def test_what_widths_cannot_tell_apart_is_predicted_all_the_same(
    shape: ModelShape, formats: tuple[int, ...]
) -> None:
    """Where heads go with KV heads, say, or there is one of them."""
    plans, heads = timed(shape, formats)
    planted = dict(zip(TERMS, (1.0, 3.0, 0.5, 0.1, 0.05, 0.2, 0.01), strict=True))
    for name in ROUNDED_TERMS:
        term, _, bits = name.partition("@")
        planted[name] = planted[term] * SHARES[int(bits)]
    values = [planted[name] for name in names(plans)]
    terms, tile = fit(plans, counts(plans, heads) @ values, heads)
    table = table_of(terms, tile)
    for plan in random_plans(rounded_space(shape, formats), shape.num_layers, 20, 8 if formats[1:] else 0):
        assert table.predict(plan) == pytest.approx(float(features(plan, 1, names(plans)) @ values))


def table_of(terms: dict[str, float], tile: int = 1) -> LatencyTable:
    return LatencyTable(Workload(), {"cores": 2}, terms, [{"dense_ms": 12.0}], tile=tile)


def planted_table() -> LatencyTable:
    """One with terms of 8 bits and of 4, each another number."""
    return table_of({term: 0.01 * (1 + i) for i, term in enumerate((*TERMS, *ROUNDED_TERMS))}).corrected(1.1)


@pytest.mark.parametrize("head_bits", [0, 8])
def test_the_budget_of_a_table_costs_what_it_predicts(head_bits: int) -> None:
    space, table = rounded_space(GQA), planted_table()
    constraint = table.constraint(space, 5.0)
    assert constraint.limit == 5
    assert set(constraint.attention) == set(space.levels("attention"))
    assert constraint.attention[RoundedHeads((8, 4), 8)] != constraint.attention[8, 4]
    assert constraint.ffn[RoundedWidth(96, 4)] != constraint.ffn[RoundedWidth(96, 8)]
    for plan in random_plans(space, 4, 30, head_bits):
        assert constraint.cost(plan) == pytest.approx(table.predict(plan))


def test_parts_of_a_plan_are_in_its_formats() -> None:
    table, terms = planted_table(), planted_table().terms
    layer = LayerShape(4, 2, 64, attention_bits=8, ffn_bits=4)
    parts = table.parts(Plan((layer, layer.unrounded), head_bits=8))
    eight = terms["attention@8"] + 4 * terms["query_head@8"] + 2 * terms["kv_head@8"]
    plain = terms["attention"] + 4 * terms["query_head"] + 2 * terms["kv_head"]
    assert parts["attention"] == pytest.approx([1.1 * eight, 1.1 * plain])
    four = terms["ffn@4"] + 64 * terms["channel@4"]
    assert parts["ffn"] == pytest.approx([1.1 * four, 1.1 * (terms["ffn"] + 64 * terms["channel"])])
    assert parts["head"] == table.head_in(8) == 1.1 * terms["head@8"]
    assert table.head_ms == 1.1 * terms["head"]
    whole = parts["step"] + parts["head"] + sum(parts["attention"]) + sum(parts["ffn"])
    assert whole == pytest.approx(table.predict(Plan((layer, layer.unrounded), head_bits=8)))


def test_the_ends_of_a_table_have_the_head_of_the_smallest_subnet() -> None:
    table = planted_table()
    smallest = Plan((LayerShape(1, 1, 0, attention_bits=4),), head_bits=8)
    ends = Ends.of_table(table, GQA.dense_plan, smallest)
    assert (ends.head, ends.floor) == (table.head_in(8), table.predict(smallest))
    assert ends.dense == ends.unpruned == table.predict(GQA.dense_plan)
    assert table.head_in(8) != table.head_ms


def test_formats_that_were_not_measured_are_refused() -> None:
    table = table_of(dict.fromkeys(TERMS, 0.1))
    rounded = Plan((LayerShape(8, 4, 96, ffn_bits=4),))
    with pytest.raises(UserError, match="no times of ffn in 4 bits"):
        table.predict(rounded)
    with pytest.raises(UserError, match="no times of attention in 8 bits"):
        table.constraint(rounded_space(GQA, EIGHT), 5.0)
    with pytest.raises(UserError, match="no times of head in 8 bits"):
        table.constraint(MixedSpace(make_space(GQA), (), (0, 8)), 5.0)


def benchmark(path: Path, machine: VirtualMachine) -> LatencyBenchmark:
    source = checkpoint(path, vocab_size=WIDE, tie_word_embeddings=True)
    return LatencyBenchmark(source, machine, Workload(context=24), 1, Told(), clock=machine.clock)


def test_a_measured_table_predicts_every_format_and_its_time_grows_with_the_models(tmp_path: Path) -> None:
    machine = VirtualMachine()
    timer = benchmark(tmp_path, machine)
    space = rounded_space(timer.source.shape)
    table = timer.table(space)
    assert isinstance(timer.progress, Told)
    assert timer.progress.lines[0] == (
        "measure: latency table: 26 models in 13 groups, at most about 130 s (60 s without the 14 of rounded "
        "weights)"
    )
    assert machine.most_alive == 3
    assert [plan.head_bits for plan, rows in machine.built if rows == WIDE] == [0, 8]
    assert len(table.rows) == len(machine.built) == 26
    for head_bits in (0, 8):
        assert table.head_in(head_bits) == pytest.approx(WIDE * ROW_MS * SHARES.get(head_bits, 1.0))
        for plan in random_plans(space, 4, 10, head_bits):
            assert table.predict(plan) == pytest.approx(undisturbed_ms(plan, WIDE))
    assert LatencyTable.from_json(json.loads(json.dumps(table.to_json()))) == table
    assert table.dense_ms == pytest.approx(undisturbed_ms(PLANS["dense"], WIDE))


def test_a_table_is_kept_for_its_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    timer = benchmark(tmp_path / "model", VirtualMachine())
    spaces = [rounded_space(timer.source.shape, formats) for formats in (WITHOUT, EIGHT, BOTH)]
    tables = [cached_table(timer, space, refresh=False) for space in spaces]
    assert [len(table.terms) for table in tables] == [7, 13, 18]
    monkeypatch.setattr(LatencyBenchmark, "table", lambda *_: pytest.fail("measured again"))
    assert [cached_table(timer, space, refresh=False) for space in spaces] == tables
