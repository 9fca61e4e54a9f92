"""Calibration that goes on after a kill walks through the layers exactly as the first time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_problem import Lab, batches

from compressor.forward import BlockRunner
from compressor.room import Room
from compressor.statistics import LayerStatistics
from compressor.statistics.gram import merged
from compressor.statistics.walk import Walk, Walker
from compressor.workers import Here


def test_skipped_layers_run_in_the_same_batches(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def collect(walk: Walk, index: int) -> LayerStatistics:
        (sums,) = Here().ask(walk, Walker.collect, index)
        return merged(sums).statistics()

    whole, resumed = (Walk(lab.model, lab.windows, lab.heldout, Room()) for _ in range(2))
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
