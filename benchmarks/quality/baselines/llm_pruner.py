"""LLM-Pruner (arXiv 2305.11627), training-free part: units by a Taylor estimate of their loss.

Element-wise importance of first order (Sec. 3.2, "Element^1"): |dL/dw * w|, L the loss on a few samples of
calibration text, summed over all weights of a group of coupled structures. Block-wise: the same widths in all
layers that are cut; the first and the last layers are left whole, in the proportion of the authors' script
for LLaMA-7B, 4 and 2 of 32. No LoRA afterwards.

Of the paper's estimates and reductions these are the ones that its tables and released defaults favour. Ten
samples as in the paper, here whole windows drawn by the seed where the paper has 128 tokens; all of the text
is not better, for the mean gradient of a trained model fades. Where the budget does not pay for the whole
layers and one KV group and channel of every other, all layers are cut.
"""

from __future__ import annotations

import torch

from benchmarks.quality.gradients import gradients
from benchmarks.quality.setting import Setting, Subnet, baselines
from benchmarks.quality.units import UnitScores, best, owned
from lathe.artefact.plan import LayerShape, Plan

_SAMPLES = 10


@baselines.register("llm-pruner")
def llm_pruner(setting: Setting, keep: float) -> Subnet:
    first, last, widths = layout(setting, keep)
    found, whole = scores(setting), setting.shape.layer
    layers = list(setting.layers)
    for index in range(first, len(layers) - last):
        layers[index] = setting.prune(index, best(setting.shape, found[index], widths))
    between = (widths,) * (len(layers) - first - last)
    return setting.subnet(layers, plan=Plan((whole,) * first + between + (whole,) * last))


def layout(setting: Setting, keep: float) -> tuple[int, int, LayerShape]:
    """Whole layers at the start and at the end, and the widths of those between."""
    shape = setting.shape
    count, per_group = shape.num_layers, shape.layer.heads_per_group
    first, last = int(count * 4 / 32 + 0.5), int(count * 2 / 32 + 0.5)
    share = (keep * count - first - last) / (count - first - last)
    smallest = shape.decoder_parameters([LayerShape(per_group, 1, 1)])
    if share * setting.dense_parameters < count * smallest:
        return 0, 0, setting.uniform(keep)
    return first, last, setting.uniform(share)


def scores(setting: Setting) -> list[UnitScores]:
    generator = torch.Generator().manual_seed(setting.seed)
    samples = setting.fit[torch.randperm(len(setting.fit), generator=generator)[:_SAMPLES]]
    return [
        owned(setting.shape, {n: (weights[n] * g).abs().double() for n, g in found.items()})
        for weights, found in zip(setting.layers, gradients(setting, setting.layers, samples), strict=True)
    ]
