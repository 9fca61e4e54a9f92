"""One dense layer's statistics, from its input hidden states."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from compressor.forward import BlockRunner, Weights
from compressor.statistics.gram import Gram

BATCH = 8


@dataclass(frozen=True)
class LayerStatistics:
    """Mean second moments, float64.

    attention: [N*H, N*H] of o_proj's input. ffn: [F, F] of down_proj's input. The `_heldout` twins
    come from windows that nothing is fitted on. attention_input, ffn_input: [D, D] of what q/k/v and
    gate/up read (the paper's score needs them).
    """

    attention: torch.Tensor
    attention_heldout: torch.Tensor
    attention_input: torch.Tensor
    ffn: torch.Tensor
    ffn_heldout: torch.Tensor
    ffn_input: torch.Tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


@torch.inference_mode()
def collect_layer(
    runner: BlockRunner, weights: Weights, hidden_BTD: torch.Tensor, heldout: torch.Tensor
) -> tuple[LayerStatistics, torch.Tensor]:
    """Statistics of one layer, and the hidden states [B, T, D] that the next layer reads.

    heldout: [B] bool, the windows that are kept apart.
    """
    family = runner.family
    width, d = weights[f"{family.o}.weight"].shape[1], hidden_BTD.shape[-1]
    channels = weights[f"{family.down}.weight"].shape[1]
    attention = {False: Gram(width), True: Gram(width)}
    ffn = {False: Gram(channels), True: Gram(channels)}
    inputs = {"attention": Gram(d), "ffn": Gram(d)}
    after = torch.empty_like(hidden_BTD)
    for part in batches(heldout):
        apart = bool(heldout[part[0]])
        x = hidden_BTD[part]
        context = runner.attention_context(weights, x)
        attention[apart].add_batch(context)
        inputs["attention"].add_batch(runner.attention_input(weights, x))
        x = x + runner.project(weights, family.o, context)
        context = runner.ffn_context(weights, x)
        ffn[apart].add_batch(context)
        inputs["ffn"].add_batch(runner.ffn_input(weights, x))
        after[part] = x + runner.project(weights, family.down, context)
    statistics = LayerStatistics(
        attention[False].mean(), attention[True].mean(), inputs["attention"].mean(),
        ffn[False].mean(), ffn[True].mean(), inputs["ffn"].mean(),
    )
    return statistics, after


def batches(heldout: torch.Tensor) -> list[torch.Tensor]:
    """Index batches that never mix fitted and held-out windows."""
    return [
        part for group in (False, True)
        for part in torch.nonzero(heldout == group)[:, 0].split(BATCH) if len(part)
    ]
