"""Calibration that goes on after a kill walks through the layers exactly as the first time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_problem import Lab

from compressor.forward import BlockRunner
from compressor.layered import LayeredModel
from compressor.pipeline.prepare import _Walk
from compressor.statistics.collect import batches


def test_skipped_layers_run_in_the_same_batches(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def walk() -> _Walk:
        model = LayeredModel(lab.runner, lab.head, lab.embedding, lab.layers)
        return _Walk(model, lambda: lab.embedded, lab.heldout)

    whole, resumed = walk(), walk()
    collected = [whole.collect(index) for index in range(4)]
    sizes: list[int] = []
    attention = BlockRunner.attention

    def watched(self: BlockRunner, weights: Any, hidden: torch.Tensor, past: Any) -> torch.Tensor:
        sizes.append(len(hidden))
        return attention(self, weights, hidden, past)

    monkeypatch.setattr(BlockRunner, "attention", watched)
    last = resumed.collect(3)
    assert sizes == 3 * [len(part) for part in batches(lab.heldout)]
    for name, value in last.tensors().items():
        assert torch.equal(value, collected[3].tensors()[name])
