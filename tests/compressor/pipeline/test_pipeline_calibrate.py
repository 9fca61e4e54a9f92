"""Calibration that goes on after a kill walks through the layers exactly as the first time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.workers import LocalWorkers
from lathe.compressor.model.block_runner import BlockRunner
from lathe.compressor.statistics import LayerStatistics
from lathe.compressor.statistics.calibration_pass import CalibrationPass, LayerCollector
from lathe.compressor.statistics.gram import merge_into_first
from support.tiny_problem import Lab, batches


def test_skipped_layers_run_in_the_same_batches(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def collect(calibration: CalibrationPass, index: int) -> LayerStatistics:
        (sums,) = LocalWorkers().map_shards(calibration, LayerCollector.collect, index)
        return merge_into_first(sums).finalize()

    whole, resumed = (CalibrationPass(lab.model, lab.windows, lab.heldout, ArrayStore()) for _ in range(2))
    collected = [collect(whole, index) for index in range(4)]
    sizes: list[int] = []
    attention = BlockRunner.attention

    def watched(self: BlockRunner, weights: Any, hidden: torch.Tensor, past: Any) -> torch.Tensor:
        sizes.append(len(hidden))
        return attention(self, weights, hidden, past)

    monkeypatch.setattr(BlockRunner, "attention", watched)
    last = collect(resumed, 3)
    assert sizes == 3 * [len(part) for part in batches(lab.heldout)]
    for name, value in last.tensors().items():
        assert torch.equal(value, collected[3].tensors()[name])


def test_the_last_hidden_states_are_those_of_the_whole_model(lab: Lab) -> None:
    text = CalibrationPass(lab.model, lab.windows, lab.heldout, ArrayStore())
    for index in range(len(lab.layers)):
        for passed in LocalWorkers().map_shards(text, LayerCollector.collect, index):
            list(passed)
    (shards,) = LocalWorkers().map_shards(text, LayerCollector.last)
    hidden = lab.embedded
    with torch.no_grad():
        for index, layer in enumerate(lab.layers):
            hidden = lab.runner.at(index).layer(layer, hidden)
    found = [(part, states) for part, states in shards]
    assert sorted(torch.cat([part for part, _ in found]).tolist()) == list(range(len(lab.windows)))
    for part, states in found:
        torch.testing.assert_close(states, hidden[part], rtol=1e-5, atol=1e-5)
