"""Sensitivities to second order against those that replays measure."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_search_fitness import fitness

from lathe.compressor.compute.array_store import ArrayLike, ArrayStore
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.search import fitness as fitness_module
from lathe.compressor.search.sensitivity import FisherSensitivity, SensitivityEstimate
from lathe.compressor.search.space import make_space
from support.tiny_problem import Lab

BLOCKS = range(8)


@torch.no_grad()
def through(lab: Lab, hidden: torch.Tensor, blocks: range) -> list[torch.Tensor]:
    """The dense stream before each of these blocks, and after the last."""
    states = [hidden]
    for position in blocks:
        run = lab.runner.ffn if position % 2 else lab.runner.attention
        states.append(run(lab.layers[position // 2], states[-1]))
    return states


def fisher(lab: Lab, states: list[torch.Tensor], store: ArrayStore | None = None) -> FisherSensitivity:
    def dense(position: int) -> Weights:
        return lab.layers[position // 2]

    store = store or ArrayStore()
    rows: list[ArrayLike] = [store.copy(hidden) for hidden in states]
    return FisherSensitivity(lab.runner, lab.head, rows, dense, store)


def test_small_changes_do_what_the_second_order_says(lab: Lab) -> None:
    states = through(lab, lab.embedded, BLOCKS)
    found, dense = fisher(lab, states), lab.head.logprobs(states[-1])
    generator, ratios = torch.Generator().manual_seed(0), []
    for position in BLOCKS:
        after = states[position + 1]
        size = 0.05 * after.square().mean(-1, keepdim=True).sqrt()
        changed = after + size * torch.randn(after.shape, generator=generator)
        subnet = lab.head.logprobs(through(lab, changed, BLOCKS[position + 1 :])[-1])
        direct = float((dense.exp() * (dense - subnet)).sum(-1).mean())
        change = found.of(position, changed)
        ratios.append(change.kl / direct)
        assert change.size == pytest.approx(0.05**2, rel=0.05)
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.12)
    assert all(ratio == pytest.approx(1, abs=0.4) for ratio in ratios)


def test_gradients_in_files_are_those_in_memory(lab: Lab, tmp_path: Path) -> None:
    states = through(lab, lab.embedded[:6], BLOCKS)
    for position in BLOCKS:
        changes: list[SensitivityEstimate] = []
        for store in (ArrayStore(), ArrayStore(tmp_path)):
            changes.append(fisher(lab, states, store).of(position, store.copy(states[position + 1] * 1.1)))
        assert changes[0] == changes[1]


def test_levels_that_change_little_are_nearly_what_replays_say_and_others_are_replayed(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator, space = fitness(lab, tmp_path), make_space(lab.source.shape)
    levels = [1, 2, len(space.attention) - 1]
    replayed = [evaluator.replayed(position, levels) for position in BLOCKS]
    monkeypatch.setattr(fitness_module, "_REPLAY_FROM", 1e9)
    for position in BLOCKS:
        near = evaluator.sensitivities(position, levels)
        assert near != replayed[position]
        assert near[0] == pytest.approx(replayed[position][0], rel=0.5)
    monkeypatch.setattr(fitness_module, "_REPLAY_FROM", 0.0)
    for position in BLOCKS:
        assert evaluator.sensitivities(position, levels) == pytest.approx(replayed[position], rel=0.4)
    monkeypatch.setattr(fitness_module, "_REPLAYED", 1)
    evaluator = fitness(lab, tmp_path)
    for position in BLOCKS:
        assert evaluator.sensitivities(position, levels) == pytest.approx(
            replayed[position], rel=0.02, abs=2e-5
        )
