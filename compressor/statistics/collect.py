"""One dense layer's statistics, from its input hidden states."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Protocol, Self

import torch

from lathe.artefact.plan import BLOCK_KINDS
from lathe.compressor.compute.array_store import ArrayLike
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.names import DOWN_PROJ, K_PROJ, O_PROJ, Q_PROJ
from lathe.compressor.model.output_projection import token_weights
from lathe.compressor.statistics.gram import Gram, HeadSquares
from lathe.compressor.statistics.router_sample import RouterSample

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
        expert_products: [S, E, E] float32 of what experts would add to these (`RouterSample`).
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


class LayerAccumulators:
    """What `LayerStatistics` is made of, summed over batches of windows. fitted: tokens, of all such sums."""

    def __init__(self, runner: BlockRunner, weights: Weights, fitted: int) -> None:
        shape = runner.shape
        width, channels = (weights[f"{name}.weight"].shape[1] for name in (O_PROJ, DOWN_PROJ))
        self._attention = {apart: Gram(width) for apart in (False, True)}
        self._ffn = {apart: Gram(channels, shape.experts) for apart in (False, True)}
        self._inputs = {kind: Gram(shape.hidden_size) for kind in BLOCK_KINDS}
        self._heads = {name: HeadSquares(shape.head_dim) for name in (Q_PROJ, K_PROJ)}
        self._routes = RouterSample(runner, weights, fitted)

    def add_batch(
        self, runner: BlockRunner, weights: Weights, x_BTD: torch.Tensor, heldout: bool
    ) -> torch.Tensor:
        """Run the layer on a batch, which is held out or not; returns the hidden states after it."""
        with runner.watch("attention") as made:
            context = runner.attention_context(weights, x_BTD)
        for name, squares in self._heads.items():
            squares.add_batch(made[f"{name}.weight"][1])
        self._inputs["attention"].add_batch(runner.attention_input(weights, x_BTD))
        projected = runner.project(weights, O_PROJ, context)
        self._attention[heldout].add_batch(context * token_weights(runner, projected))
        x = runner.merge("attention", weights, x_BTD, projected)
        context = runner.ffn_context(weights, x)
        self._inputs["ffn"].add_batch(runner.ffn_input(weights, x))
        if not heldout:
            self._routes.add_batch(x)
        projected = runner.project(weights, DOWN_PROJ, context)
        channels = weights[f"{DOWN_PROJ}.weight"].shape[1]
        self._ffn[heldout].add_batch(context[..., :channels] * token_weights(runner, projected))
        return runner.merge("ffn", weights, x, projected)

    def add(self, other: Self) -> None:
        """What another one has summed."""
        for apart in (False, True):
            self._attention[apart].add(other._attention[apart])
            self._ffn[apart].add(other._ffn[apart])
        for kind, gram in other._inputs.items():
            self._inputs[kind].add(gram)
        for name, squares in other._heads.items():
            self._heads[name].add(squares)
        self._routes.add(other._routes)

    def statistics(self) -> LayerStatistics:
        """The means; the sums are used up."""
        queries, keys = (squares.mean() for squares in self._heads.values())
        return LayerStatistics(
            self._attention[False].mean(),
            self._attention[True].mean(),
            self._inputs["attention"].mean(),
            self._ffn[False].mean(),
            self._ffn[True].mean(),
            self._inputs["ffn"].mean(),
            queries,
            keys,
            self._routes.logits(),
            self._routes.products(),
        )


@torch.no_grad()
def collect_layer(
    runner: BlockRunner,
    weights: Weights,
    hidden_BTD: ArrayLike,
    heldout: torch.Tensor,
    parts: Iterable[torch.Tensor],
) -> LayerAccumulators:
    """Of one layer, over some batches of windows; moves their hidden states past it.

    heldout: [B] bool, the windows that are kept apart.
    """
    sums = LayerAccumulators(runner, weights, int((~heldout).sum()) * hidden_BTD.shape[1])
    for part in parts:
        hidden_BTD[part] = sums.add_batch(runner, weights, hidden_BTD[part], bool(heldout[part[0]]))
    return sums


def batches_of(heldout: torch.Tensor, apart: bool) -> list[torch.Tensor]:
    """Index batches of the windows to fit, or of the held-out ones: none mixes them."""
    return [part for part in torch.nonzero(heldout == apart)[:, 0].split(BATCH) if len(part)]
