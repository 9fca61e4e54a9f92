"""What a latency table learns from measured plans."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.latency.learning import learned
from lathe.compressor.latency.table import ROUNDED_TERMS, TERMS, LatencyTable
from lathe.compressor.latency.workload import Workload

DENSE = Plan((LayerShape(8, 4, 96),) * 4)
EIGHT, FOUR = DENSE.in_bits(8, 8), DENSE.in_bits(4, 8)
TERMS_MS = dict(zip(TERMS, (0.5, 1.0, 0.2, 0.05, 0.02, 0.1, 0.01), strict=True))


def table(**changes: float) -> LatencyTable:
    """A table whose rounded terms take half of the others, each times a factor by its bits."""
    rounded = {t: TERMS_MS[t.partition("@")[0]] / 2 * changes.get(f"int{t[-1]}", 1.0) for t in ROUNDED_TERMS}
    return LatencyTable(Workload(), {}, {**TERMS_MS, **rounded}, [{"dense_ms": 10.0}])


def test_a_table_of_one_format_is_corrected_by_what_a_plan_takes() -> None:
    plain = replace(table(), terms=TERMS_MS)
    found = learned(plain, {DENSE: 1.2 * plain.predict(DENSE)})
    assert found.predict(DENSE) == pytest.approx(1.2 * plain.predict(DENSE), rel=0.01)
    assert {name: ms / plain.terms[name] for name, ms in found.terms.items()} == pytest.approx(
        dict.fromkeys(TERMS, found.terms["step"] / TERMS_MS["step"])
    )


def test_the_format_that_takes_longer_than_predicted_is_found() -> None:
    true, known = table(int4=1.3), table()
    mixture = Plan((*EIGHT.layers[:2], *FOUR.layers[2:]), 8)
    once = learned(known, {FOUR: true.predict(FOUR)})
    assert once.predict(FOUR) == pytest.approx(true.predict(FOUR), rel=0.02)
    assert abs(once.predict(mixture) / true.predict(mixture) - 1) < 0.1
    both = learned(known, {plan: true.predict(plan) for plan in (FOUR, EIGHT)})
    assert both.terms["channel@4"] / known.terms["channel@4"] == pytest.approx(1.3, abs=0.06)
    assert both.terms["channel@8"] / known.terms["channel@8"] == pytest.approx(1.0, abs=0.06)
    assert both.predict(mixture) == pytest.approx(true.predict(mixture), rel=0.01)


def test_measurements_that_differ_by_chance_are_averaged() -> None:
    plain = replace(table(), terms=TERMS_MS)
    other = Plan((replace(DENSE[0], ffn=80), *DENSE.layers[1:]))
    measured = {DENSE: 1.06 * plain.predict(DENSE), other: 0.94 * plain.predict(other)}
    found = learned(plain, measured)
    assert found.predict(DENSE) == pytest.approx(plain.predict(DENSE), rel=0.01)


def test_no_factor_is_negative() -> None:
    found = learned(table(), {FOUR: 0.001 * table().predict(FOUR)})
    assert min(found.terms.values()) > 0
    assert found.predict(FOUR) == pytest.approx(0.001 * table().predict(FOUR))


def test_nothing_measured_changes_nothing() -> None:
    assert learned(table(), {FOUR: table().predict(FOUR)}).terms == pytest.approx(table().terms)
