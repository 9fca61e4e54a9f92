"""Gradients of the loss in predicting text by the weights of a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.quality.setting import Setting
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.loss_gradients import loss_gradients


def gradients(
    setting: Setting, layers: Sequence[Weights], tokens_BT: torch.Tensor
) -> list[dict[str, torch.Tensor]]:
    """Of the mean loss in nats per predicted token, by layer and name; one window at a time."""
    leaves = [{n: w.detach().clone().requires_grad_() for n, w in layer.items()} for layer in layers]

    def run(index: int, hidden: torch.Tensor) -> torch.Tensor:
        return setting.layer(index, leaves[index], hidden)

    for tokens in tokens_BT.split(1):
        _, done = loss_gradients(setting.head, run, len(leaves), setting.embed(tokens), tokens)
        for _ in done:
            pass
    return [{n: w.grad / len(tokens_BT) for n, w in layer.items() if w.grad is not None} for layer in leaves]
