"""EvoPress on depth: the budget, the moves, and the search against all subnets."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from other_settings import KINDS, direct_kl, is_deterministic
from tiny_setting import make_setting

from benchmarks.quality.baselines import evopress_depth as method
from benchmarks.quality.baselines.evopress_depth import Depth, evopress_depth, search
from benchmarks.quality.setting import Setting
from lathe.artefact.plan import Plan


def flags_of(plan: Plan) -> tuple[int, ...]:
    return tuple(int(w > 0) for layer in plan for w in (layer.kv_heads, layer.ffn))


def is_full(setting: Setting, flags: tuple[int, ...], keep: float) -> bool:
    """Within the budget, with no room for another block."""
    shape, layer = setting.shape, setting.shape.layer
    costs = (shape.attention_parameters(layer), shape.ffn_parameters(layer)) * shape.num_layers
    left = keep * setting.dense_parameters - sum(c for c, f in zip(costs, flags, strict=True) if f)
    return left >= 0 and all(cost > left for cost, f in zip(costs, flags, strict=True) if not f)


@pytest.mark.parametrize("keep", [0.9, 0.7, 0.5, 0.3])
def test_budget_is_kept_and_used(setting: Setting, keep: float) -> None:
    found = evopress_depth(replace(setting, evaluations=20), keep)
    assert found.plan is not None
    assert is_full(setting, flags_of(found.plan), keep)
    assert found.parameters == setting.shape.decoder_parameters(found.plan)
    assert found.candidates == 20


@pytest.mark.parametrize("keep", [0.8, 0.5])
def test_moves_keep_the_budget_full_and_reach_other_subnets(setting: Setting, keep: float) -> None:
    space = Depth(setting, keep, random.Random(0))
    seen = {space.random(round((1 - keep) * 4)) for _ in range(30)}
    assert len(seen) > 3
    for flags in list(seen):
        seen |= {space.mutate(flags) for _ in range(30)}
    assert all(is_full(setting, flags, keep) for flags in seen)
    assert len({sum(flags[::2]) for flags in seen}) > 1, "blocks of one kind are never traded for the other"


def test_the_first_subnets_drop_as_many_of_either_kind(setting: Setting) -> None:
    space = Depth(setting, 0.5, random.Random(0))
    for _ in range(20):
        flags = space.random(2)
        assert sum(flags[::2]) == sum(flags[1::2]) == 2


def test_search_finds_the_best_of_all_subnets(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method, "_STEPS", ((10**6, 2), (10**6, 1)))  # all windows: no noise
    found, evaluated = search(setting, Depth(setting, 0.75, random.Random(0)), 300, 1)
    everything = [f for f in product((0, 1), repeat=8) if is_full(setting, f, 0.75)]

    def kl(flags: tuple[int, ...]) -> float:
        dropped = [method._join(setting, flags, i) for i in range(4)]
        return direct_kl(setting, dropped, setting.fit)

    assert evaluated <= 300
    assert kl(found) == pytest.approx(min(map(kl, everything)), rel=1e-4)


def test_published_effort(setting: Setting) -> None:
    """64 at first and 32 in each of k (n - k) / 1.5 generations, less what was drawn twice."""
    found = evopress_depth(setting, 0.5)
    assert 64 < found.candidates <= 64 + 32 * 3 + 31


def test_nothing_dropped_is_dense(setting: Setting) -> None:
    found = evopress_depth(setting, 1.0).logprobs(setting.heldout)
    assert found.equal(setting.subnet(list(setting.layers)).logprobs(setting.heldout))


def test_the_same_again(setting: Setting) -> None:
    assert is_deterministic(evopress_depth, replace(setting, evaluations=40), 0.6)


@pytest.mark.parametrize("kind", KINDS)
def test_other_llamas(kind: str, tmp_path: Path) -> None:
    other = replace(make_setting(tmp_path, **KINDS[kind]), evaluations=20)
    found = evopress_depth(other, 0.6)
    assert found.plan is not None
    assert is_full(other, flags_of(found.plan), 0.6)
    assert found.parameters == other.shape.decoder_parameters(found.plan)
