"""Magnitude pruning of whole units: those with the smallest L2 norm of their weights go.

Han et al., "Learning both Weights and Connections" (arXiv 1506.02626), by units as in the L2 baseline of
LLM-Pruner (arXiv 2305.11627, Table 1): all weights that a unit owns count alike. The same widths in every
layer; no text is read and no weight changes.
"""

from __future__ import annotations

from benchmarks.quality.setting import Setting, Subnet, baselines
from benchmarks.quality.units import best, owned
from lathe.artefact.plan import Plan
from lathe.compressor.model.block_runner import Weights


@baselines.register("magnitude")
def magnitude(setting: Setting, keep: float) -> Subnet:
    widths = setting.uniform(keep)
    layers: list[Weights] = []
    for index, weights in enumerate(setting.layers):
        squares = {name: tensor.double().square() for name, tensor in weights.items()}
        scores = owned(setting.shape, squares)
        layers.append(setting.prune(index, best(setting.shape, scores, widths)))
    return setting.subnet(layers, plan=Plan((widths,) * len(layers)))
