"""One dense layer's statistics, from its input hidden states."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Protocol, Self

import torch

from lathe.artefact.plan import BLOCK_KINDS, BlockKind
from lathe.compressor.compute.array_store import ArrayLike
from lathe.compressor.compute.precision import products, rounded_factors
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.names import DOWN_PROJ, K_PROJ, O_PROJ, Q_PROJ
from lathe.compressor.model.output_projection import output, token_weights
from lathe.compressor.statistics.gram import Gram, HeadSquares
from lathe.compressor.statistics.router_sample import RouterSample

BATCH = 8
LASTING = ("attention", "ffn", "queries", "keys")
"""Names of the statistics that are still read after a layer's ranking and dampings were made."""


class LastingStatistics(Protocol):
    """Statistics of a layer that are still needed after ranking, with the meaning of `LayerStatistics`."""

    @property
    def attention(self) -> torch.Tensor:
        """[N*H, N*H]: second moments of o_proj's input."""

    @property
    def ffn(self) -> torch.Tensor:
        """[F, F], or [E, F, F]: second moments of down_proj's input."""

    @property
    def queries(self) -> torch.Tensor:
        """[N]: mean squares of query heads."""

    @property
    def keys(self) -> torch.Tensor:
        """[K]: mean squares of KV heads."""


@dataclass(frozen=True)
class LayerStatistics:
    """Mean second moments of one dense layer, float64.

    Attributes:
        attention: Moments of o_proj's input, tokens weighted as `output_projection.py` says, [N*H, N*H].
        attention_heldout: The same on windows that nothing is fitted on.
        attention_input: Moments of the input of q, k and v, [D, D]; empty where no importance method asked
            for them.
        ffn: Moments of down_proj's input, weighted likewise, [F, F]; one matrix per expert, [E, F, F].
        ffn_heldout: The same on windows that nothing is fitted on.
        ffn_input: Moments of the input of gate and up, likewise.
        queries: The mean square of each query head, which norms over all heads need, [N].
        keys: The mean square of each KV head, [K].
        expert_logits: Router logits of a sample of tokens, [S, E] float32; empty without experts.
        expert_products: Inner products of the experts' outputs for these tokens, [S, E, E] float32
            (`RouterSample`).
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
        """Returns all tensors by field name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


class LayerAccumulators:
    """Accumulates the statistics of one layer over batches of windows.

    Args:
        runner: Runs the layer's blocks.
        weights: The layer's dense weights.
        fitted_tokens: The tokens that are fitted on, in all accumulators that will be added together.
        block_inputs: Whether to accumulate the moments of what the blocks read.
        bfloat16: Whether factors of products may be rounded to bfloat16; moments are sums in float32.
    """

    def __init__(
        self,
        runner: BlockRunner,
        weights: Weights,
        fitted_tokens: int,
        block_inputs: bool = True,
        bfloat16: bool = False,
    ) -> None:
        shape, self._bfloat16 = runner.shape, bfloat16
        width, channels = (weights[f"{name}.weight"].shape[1] for name in (O_PROJ, DOWN_PROJ))
        self._attention = {heldout: Gram(width) for heldout in (False, True)}
        self._ffn = {heldout: Gram(channels, shape.experts) for heldout in (False, True)}
        self._inputs = {kind: Gram(shape.hidden_size) for kind in BLOCK_KINDS if block_inputs}
        self._heads = {name: HeadSquares(shape.head_dim) for name in (Q_PROJ, K_PROJ)}
        self._router_sample = RouterSample(runner, weights, fitted_tokens)

    def add_batch(
        self, runner: BlockRunner, weights: Weights, x_BTD: torch.Tensor, heldout: bool
    ) -> torch.Tensor:
        """Runs the layer on a batch, which is held out or not, and returns the hidden states after it."""
        with runner.watch("attention") as watched:
            context, projected = self._run(runner, weights, "attention", x_BTD)
        for name, squares in self._heads.items():
            squares.add_batch(watched[f"{name}.weight"][1])
        if self._inputs:
            self._sum(self._inputs["attention"], runner.attention_input(weights, x_BTD))
        self._sum(self._attention[heldout], context * token_weights(runner, projected))
        x = runner.merge("attention", weights, x_BTD, projected)
        context, projected = self._run(runner, weights, "ffn", x)
        if self._inputs:
            self._sum(self._inputs["ffn"], runner.ffn_input(weights, x))
        if not heldout:
            self._router_sample.add_batch(x)
        channels = weights[f"{DOWN_PROJ}.weight"].shape[1]
        self._sum(self._ffn[heldout], context[..., :channels] * token_weights(runner, projected))
        return runner.merge("ffn", weights, x, projected)

    def _sum(self, gram: Gram, x_BTD: torch.Tensor) -> None:
        with rounded_factors(x_BTD.device, self._bfloat16):
            gram.add_batch(x_BTD)

    def _run(
        self, runner: BlockRunner, weights: Weights, kind: BlockKind, x_BTD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the input and the output of a block's output projection, in the dtype of its input."""
        with products(x_BTD.device, self._bfloat16):
            context = runner.context(kind, weights, x_BTD)
            projected = runner.project(weights, output(kind), context)
        return context.to(x_BTD.dtype), projected.to(x_BTD.dtype)

    def add(self, other: Self) -> None:
        """Adds what another instance has accumulated."""
        for heldout in (False, True):
            self._attention[heldout].add(other._attention[heldout])
            self._ffn[heldout].add(other._ffn[heldout])
        for kind, gram in other._inputs.items():
            self._inputs[kind].add(gram)
        for name, squares in other._heads.items():
            self._heads[name].add(squares)
        self._router_sample.add(other._router_sample)

    def finalize(self) -> LayerStatistics:
        """Returns the means and empties the accumulators."""
        queries, keys = (squares.finalize() for squares in self._heads.values())
        inputs = {kind: gram.finalize() for kind, gram in self._inputs.items()}
        return LayerStatistics(
            self._attention[False].finalize(),
            self._attention[True].finalize(),
            inputs.get("attention", torch.empty(0, 0)),
            self._ffn[False].finalize(),
            self._ffn[True].finalize(),
            inputs.get("ffn", torch.empty(0, 0)),
            queries,
            keys,
            self._router_sample.logits(),
            self._router_sample.products(),
        )


@torch.no_grad()
def collect_layer(
    runner: BlockRunner,
    weights: Weights,
    hidden_BTD: ArrayLike,
    heldout: torch.Tensor,
    parts: Iterable[torch.Tensor],
    block_inputs: bool = True,
    bfloat16: bool = False,
) -> LayerAccumulators:
    """Accumulates one layer's statistics over batches of windows and moves their hidden states past it.

    Args:
        runner: Runs the layer's blocks.
        weights: The layer's dense weights.
        hidden_BTD: The hidden states before the layer; overwritten by those after it.
        heldout: [B] bool, the windows that nothing is fitted on.
        parts: Indices of windows, batch by batch.
        block_inputs: Whether to accumulate the moments of what the blocks read.
        bfloat16: Whether hidden states may come from bfloat16 products.
    """
    tokens = int((~heldout).sum()) * hidden_BTD.shape[1]
    sums = LayerAccumulators(runner, weights, tokens, block_inputs, bfloat16)
    for part in parts:
        hidden_BTD[part] = sums.add_batch(runner, weights, hidden_BTD[part], bool(heldout[part[0]]))
    return sums


def batches_of(is_heldout: torch.Tensor, heldout: bool, size: int = BATCH) -> list[torch.Tensor]:
    """Returns index batches of the held-out windows, or of those to fit; no batch mixes them."""
    return [part for part in torch.nonzero(is_heldout == heldout)[:, 0].split(size) if len(part)]
