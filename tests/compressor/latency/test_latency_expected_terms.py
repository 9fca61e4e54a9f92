"""Tables of rounded weights from noisy times: what is expected of terms keeps them apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lathe.artefact.plan import LayerShape, ModelShape, Plan
from lathe.compressor.latency.designs import designs
from lathe.compressor.latency.expected_terms import expectations, expected_share
from lathe.compressor.latency.table import ROUNDED_TERMS, TERMS, features, fit
from support.rounded_space import BOTH, rounded_space

SHAPE = ModelShape(576, 49_152, 64, True, 30, LayerShape(9, 3, 1536))
FLOAT_MS = dict(zip(TERMS, (0.2, 5.5, 0.01, 0.022, 0.02, 0.005, 0.00042), strict=True))
NAMES = (*TERMS, *ROUNDED_TERMS)
RATE = {8: 1.1, 4: 1.3}
"""What the true terms take, over what is expected of them."""


def true_ms(name: str) -> float:
    term, _, bits = name.partition("@")
    return FLOAT_MS[term] * (expected_share(term, int(bits)) * RATE[int(bits)] if bits else 1.0)


TRUE = np.array([true_ms(name) for name in NAMES])


def measured(noise: float, seed: int) -> tuple[list[Plan], list[float], list[float], list[float]]:
    plans = designs(rounded_space(SHAPE, BOTH), SHAPE.dense_plan, 18, BOTH)
    heads = [4096 / 49_152] * len(plans)
    plans += [replace(plans[0], head_bits=bits) for bits in BOTH]
    heads += [1.0] * len(BOTH)
    rng = np.random.default_rng(seed)
    times = [float(features(p, 1, NAMES, h) @ TRUE) for p, h in zip(plans, heads, strict=True)]
    factors = 1 + noise * rng.standard_normal(len(times))
    return (
        plans,
        [ms * f for ms, f in zip(times, factors, strict=True)],
        heads,
        [0.0] + [noise] * (len(times) - 1),
    )


def off(noise: float, seed: int, told: bool) -> float:
    """The largest relative error of a few whole models, where the fit was told of the noise or was not."""
    plans, times, heads, errors = measured(noise, seed)
    terms, tile = fit(plans, times, heads, errors if told else None)
    dense = SHAPE.dense_plan
    asked = [dense.in_bits(8, 8), dense.in_bits(4, 8), dense.in_bits(4, 4)]
    asked += [Plan(tuple(replace(p, query_heads=3, kv_heads=1) for p in asked[1]), 8)]
    asked += [Plan(tuple(replace(p, ffn=768) for p in asked[1]), 8)]
    found = np.array([features(p, tile, terms) @ np.array(list(terms.values())) for p in asked])
    return float(np.abs(found / [features(p, 1, NAMES) @ TRUE for p in asked] - 1).max())


def test_times_without_errors_are_fitted_whatever_is_expected() -> None:
    assert off(0.0, 0, told=True) < 1e-6


def test_noisy_times_are_fitted_better_with_what_is_expected() -> None:
    alone, both = ([off(0.05, seed, told) for seed in range(8)] for told in (False, True))
    assert np.median(both) < 0.7 * np.median(alone)
    assert max(both) < max(alone)


def test_weights_cost_their_bytes_and_the_rest_is_the_same_in_all_formats() -> None:
    assert expected_share("channel", 8) == expected_share("head", 8) == pytest.approx(8.5 / 32)
    assert expected_share("query_head", 4) == pytest.approx((1 + 4.5 / 32) / 2)
    assert expected_share("attention", 4) == expected_share("ffn", 8) == 1


def test_expectations_hold_where_terms_are_as_expected_and_grow_with_the_noise() -> None:
    values = np.array([FLOAT_MS[n] if "@" not in n else true_ms(n) / RATE[int(n[-1])] for n in NAMES])
    rows = expectations(NAMES, values, 0.02)
    assert rows.shape == (len(ROUNDED_TERMS), len(NAMES))
    assert rows @ values == pytest.approx(np.zeros(len(rows)), abs=1e-12)
    assert np.allclose(rows, 2 * expectations(NAMES, values, 0.01))
