"""SLEB (arXiv 2402.09025): drop one layer after another, each time the one the text misses least.

The paper's third metric and algorithm: the loss in predicting the calibration tokens is measured for the
model of the moment without each of its remaining layers, the layer with the least loss is dropped, and
everything is measured again. Every layer may go; the authors' code spares the first and the last, which a
greedy choice by loss does by itself, and which would leave no choice in models of very few layers.
"""

from __future__ import annotations

import torch

from benchmarks.quality.layer_step import ROWS, step
from benchmarks.quality.layers import layers_to_drop, without
from benchmarks.quality.setting import Setting, Subnet, baselines


@baselines.register("sleb")
def sleb(setting: Setting, keep: float) -> Subnet:
    alive, candidates = list(range(setting.shape.num_layers)), 0
    dropped: list[int] = []
    for _ in range(layers_to_drop(setting, keep)):
        losses = losses_without_each(setting, alive)
        candidates += len(alive)
        dropped.append(alive.pop(int(losses.argmin())))
    return without(setting, dropped, candidates)


def losses_without_each(setting: Setting, alive: list[int]) -> torch.Tensor:
    """[len(alive)]: nats per predicted token, summed over batches that share the layers before the gap."""
    total = torch.zeros(len(alive), dtype=torch.float64)
    for tokens in setting.fit.split(ROWS):
        before = setting.embed(tokens)
        for position, gap in enumerate(alive):
            hidden = before
            for layer in alive[position + 1 :]:
                hidden = step(setting, layer, setting.layers[layer], hidden)
            total[position] += setting.head.loss(tokens, hidden) * len(tokens)
            before = step(setting, gap, setting.layers[gap], before)
    return total / len(setting.fit)
