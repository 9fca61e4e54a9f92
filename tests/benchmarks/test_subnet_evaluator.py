"""The evaluator of the searching baselines: KL by plain torch, shared states, drawn windows."""

from __future__ import annotations

import random

import pytest
from other_settings import direct_kl

from benchmarks.quality.setting import Setting
from benchmarks.quality.subnet_evaluator import Levels, SubnetEvaluator
from lathe.compressor.model.block_runner import Weights


def dropping(setting: Setting, levels: Levels) -> list[Weights]:
    """Layers where a 0 drops a block."""
    layers = []
    for i, weights in enumerate(setting.layers):
        names = [n for n in weights if levels[2 * i + ("mlp" in n or "post" in n)]]
        layers.append({n: weights[n] for n in names})
    return layers


CANDIDATES: list[Levels] = [
    (1, 1, 1, 1, 1, 1, 1, 1),
    (1, 1, 1, 1, 0, 1, 1, 1),
    (1, 1, 1, 1, 0, 1, 1, 0),
    (0, 1, 1, 1, 1, 1, 1, 1),
    (1, 0, 1, 1, 0, 1, 0, 1),
]


@pytest.fixture
def evaluator(setting: Setting) -> SubnetEvaluator:
    return SubnetEvaluator(setting, random.Random(0))


def block(setting: Setting, position: int, state: int) -> Weights:
    return setting.layers[position // 2] if state else {}


def test_kl_is_that_of_plain_torch_in_any_order(setting: Setting, evaluator: SubnetEvaluator) -> None:
    for order in (CANDIDATES, CANDIDATES[::-1]):
        found = evaluator.kl(order, lambda p, s: block(setting, p, s), range(6))
        expected = [direct_kl(setting, dropping(setting, c), setting.fit[:6]) for c in order]
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert len({round(kl, 4) for kl in found}) == len(CANDIDATES)


def test_the_best_on_few_windows_drawn_anew(
    setting: Setting, evaluator: SubnetEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[int]] = []
    kl = evaluator.kl
    monkeypatch.setattr(evaluator, "kl", lambda c, b, w: drawn.append(list(w)) or kl(c, b, w))
    for _ in range(3):
        ranked = evaluator.best(CANDIDATES, lambda p, s: block(setting, p, s), 64, 3)
        windows = setting.fit[drawn[-1]]
        expected = sorted(CANDIDATES, key=lambda c: direct_kl(setting, dropping(setting, c), windows))
        assert [levels for _, levels in ranked] == expected[:3]
        assert len(set(drawn[-1])) == 2, "64 tokens are two windows of 32"
    assert len({tuple(w) for w in drawn}) == 3
