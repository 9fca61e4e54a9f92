"""One dense layer's statistics, from its input hidden states."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

import torch

from compressor.forward import BlockRunner, Weights
from compressor.projection import token_weights
from compressor.room import Rows
from compressor.statistics.gram import Gram, HeadSquares
from compressor.statistics.routes import Routes

BATCH = 8
LASTING = ("attention", "ffn", "queries", "keys")
"""What of a layer's statistics is read after its orders and dampings were made."""


class LastingStatistics(Protocol):
    """That, as `LayerStatistics` has it."""

    @property
    def attention(self) -> torch.Tensor: ...

    @property
    def ffn(self) -> torch.Tensor: ...

    @property
    def queries(self) -> torch.Tensor: ...

    @property
    def keys(self) -> torch.Tensor: ...


@dataclass(frozen=True)
class LayerStatistics:
    """Mean second moments of one dense layer, float64.

    Args:
        attention: [N*H, N*H] of o_proj's input, tokens weighted as `projection.py` says.
        attention_heldout: the same of windows that nothing is fitted on.
        attention_input: [D, D] of what q, k and v read (the paper's score needs it).
        ffn: [F, F] of down_proj's input, weighted likewise; [E, F, F] of experts', each by itself.
        ffn_heldout: the same of windows that nothing is fitted on.
        ffn_input: [D, D] of what gate and up read.
        queries: [N] the mean square of each head's (norms of all heads together need it).
        keys: [K] the same of KV heads.
        expert_logits: [S, E] float32 of the router, on a sample of tokens; nothing where an FFN is one.
        expert_products: [S, E, E] float32 of what experts would add to these (`Routes`).
    """

    attention: torch.Tensor
    attention_heldout: torch.Tensor
    attention_input: torch.Tensor
    ffn: torch.Tensor
    ffn_heldout: torch.Tensor
    ffn_input: torch.Tensor
    queries: torch.Tensor
    keys: torch.Tensor
    expert_logits: torch.Tensor
    expert_products: torch.Tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        """By field."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@torch.inference_mode()
def collect_layer(
    runner: BlockRunner, weights: Weights, hidden_BTD: Rows, heldout: torch.Tensor
) -> LayerStatistics:
    """Statistics of one layer; moves the hidden states past it.

    heldout: [B] bool, the windows that are kept apart.
    """
    family = runner.family
    width, d = weights[f"{family.o}.weight"].shape[1], hidden_BTD.shape[-1]
    channels = weights[f"{family.down}.weight"].shape[1]
    attention = {False: Gram(width), True: Gram(width)}
    ffn = {apart: Gram(channels, runner.shape.experts) for apart in (False, True)}
    inputs = {"attention": Gram(d), "ffn": Gram(d)}
    routes = Routes(runner, weights, int((~heldout).sum()) * hidden_BTD.shape[1])
    heads = {name: HeadSquares(runner.shape.head_dim) for name in (family.q, family.k)}
    for part in batches(heldout):
        apart = bool(heldout[part[0]])
        x = hidden_BTD[part]
        with runner.watch("attention") as made:
            context = runner.attention_context(weights, x)
        for name, squares in heads.items():
            squares.add_batch(made[f"{name}.weight"][1])
        inputs["attention"].add_batch(runner.attention_input(weights, x))
        projected = runner.project(weights, family.o, context)
        attention[apart].add_batch(context * token_weights(runner, projected))
        x = runner.merge("attention", weights, x, projected)
        context = runner.ffn_context(weights, x)
        inputs["ffn"].add_batch(runner.ffn_input(weights, x))
        if not apart:
            routes.add_batch(x)
        projected = runner.project(weights, family.down, context)
        ffn[apart].add_batch(context[..., :channels] * token_weights(runner, projected))
        hidden_BTD[part] = runner.merge("ffn", weights, x, projected)
    return LayerStatistics(
        attention[False].mean(), attention[True].mean(), inputs["attention"].mean(),
        ffn[False].mean(), ffn[True].mean(), inputs["ffn"].mean(),
        heads[family.q].mean(), heads[family.k].mean(), routes.logits(), routes.products(),
    )


def batches(heldout: torch.Tensor) -> list[torch.Tensor]:
    """Index batches that never mix fitted and held-out windows."""
    return [
        part for group in (False, True)
        for part in torch.nonzero(heldout == group)[:, 0].split(BATCH) if len(part)
    ]
