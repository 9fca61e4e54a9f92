"""What every method of the comparison is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lathe.artefact.plan import LayerShape, ModelShape, Plan
from lathe.artefact.registry import Registry
from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.embedding import Embedding
from lathe.compressor.model.lm_head import LMHead
from lathe.compressor.model.pruning import Selection, prune_attention, prune_ffn
from lathe.compressor.statistics import LayerStatistics

TOGETHER = 2048
"""Tokens that run through a layer together, unless one window has more."""


@dataclass(frozen=True)
class Setting:
    """One dense model with its calibration text, read once per seed and shared by all methods.

    Shapes: B windows, T tokens, D model width, V vocabulary.

    layers: dense weights, float32, by name relative to their layer. fit: [B, T]
    calibration tokens to fit and to evaluate on; heldout: [B, T] kept apart, to choose settings on.
    statistics: of each layer's dense activations on them. evaluations: how many candidates a search may
    evaluate; None leaves that to the method. shared: what a method makes for one `keep` and uses for others.
    """

    source: Checkpoint
    runner: BlockRunner
    head: LMHead
    embedding: Embedding
    layers: Sequence[Weights]
    fit: torch.Tensor
    heldout: torch.Tensor
    statistics: list[LayerStatistics]
    seed: int
    progress: Progress
    evaluations: int | None = None
    shared: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> ModelShape:
        return self.source.shape

    @property
    def dense_parameters(self) -> int:
        """Parameters of the dense decoder layers: `keep` is a share of these."""
        return self.shape.decoder_parameters(self.shape.dense_plan)

    def embed(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        return self.embedding[tokens_BT]

    def layer(self, index: int, weights: Weights, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """[B, T, D] after the layer at `index`, of any widths, with gradients where they are on."""
        return self.runner.at(index).layer(weights, hidden_BTD)

    @torch.inference_mode()
    def hidden(self, layers: Sequence[Weights], tokens_BT: torch.Tensor) -> torch.Tensor:
        """[B, T, D]: the residual stream after the last layer, for layers of any widths."""
        parts = []
        for tokens in tokens_BT.split(max(1, TOGETHER // tokens_BT.shape[1])):
            x = self.embed(tokens)
            for index, weights in enumerate(layers):
                x = self.layer(index, weights, x)
            parts.append(x)
        return torch.cat(parts)

    def loss(self, layers: Sequence[Weights], tokens_BT: torch.Tensor) -> float:
        """Nats per predicted token."""
        return self.head.loss(tokens_BT, self.hidden(layers, tokens_BT))

    def prune(self, index: int, selection: Selection) -> dict[str, torch.Tensor]:
        """A layer's tensors for a selection, weights as they were."""
        dense = self.layers[index]
        return {
            **prune_attention(self.shape, dense, selection),
            **prune_ffn(dense, selection),
        }

    def uniform(self, keep: float) -> LayerShape:
        """The same widths for every layer: whole KV groups nearest to `keep`, the FFN fills the budget."""
        dense, shape = self.shape.layer, self.shape
        budget = keep * self.dense_parameters / shape.num_layers
        one, two = (shape.ffn_parameters(LayerShape(0, 0, width)) for width in (1, 2))
        for groups in range(max(1, round(keep * dense.kv_heads)), 0, -1):
            heads = groups * dense.heads_per_group
            left = budget - shape.attention_parameters(LayerShape(heads, groups, 0))
            width = min(dense.ffn, 1 + int((left - one) // (two - one)))
            if width > 0:
                return LayerShape(heads, groups, width)
        return LayerShape(dense.heads_per_group, 1, 0)

    def subnet(self, layers: Sequence[Weights], **facts: Any) -> Subnet:
        """A result made of layers that the runner can run, of any widths, with any biases."""
        return Subnet(
            self.head,
            lambda tokens: self.hidden(layers, tokens),
            sum(tensor.numel() for weights in layers for tensor in weights.values()),
            **facts,
        )


@dataclass(frozen=True)
class Subnet:
    """What a method made.

    head: final norm and LM head, those of the dense model. hidden: tokens [B, T] -> what it reads [B, T, D].
    parameters: true count of the decoder layers, whatever was added included.
    candidates: subnets evaluated in a search. plan: widths by layer, where that says it all.
    weight_bytes: of the decoder layers as stored, where that is not 4 bytes per parameter.
    """

    head: LMHead
    hidden: Callable[[torch.Tensor], torch.Tensor]
    parameters: int
    candidates: int = 0
    plan: Plan | None = None
    weight_bytes: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @torch.inference_mode()
    def logprobs(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [B, T, V] of the next token, for few windows."""
        return self.head.logprobs(self.hidden(tokens_BT))


Baseline = Callable[[Setting, float], Subnet]
"""(setting, share of decoder parameters to keep) -> a subnet that does not pass it."""

baselines: Registry[Baseline] = Registry("baseline", "benchmarks.quality.baselines")
