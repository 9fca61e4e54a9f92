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
