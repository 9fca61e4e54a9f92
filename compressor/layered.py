"""A model as the stages read it: layers, and what comes before and after them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from compressor.forward import BlockRunner, Embedding, Weights, embedding
from compressor.room import Room
from compressor.search.fitness import Head
from compressor.source import Source, Table


class Output(NamedTuple):
    logits: torch.Tensor


@dataclass(frozen=True)
class LayeredModel:
    """A model, dense or cut, whose layers are in memory, or read when asked for, as its room says. It can be
    called as a causal LM of transformers."""

    runner: BlockRunner
    head: Head
    embedding: Embedding
    layers: Sequence[Weights]

    @classmethod
    def open(cls, source: Source, room: Room, runner: BlockRunner | None = None) -> LayeredModel:
        """runner: of the dense model, for a subnet of it."""
        runner, family = runner or BlockRunner(source), source.family
        cap = source.config.get("final_logit_softcapping")
        names = [f"{family.embedding}.weight"]
        if not source.shape.tied_embeddings:
            names.append(f"{family.head}.weight")
        tables: list[torch.Tensor | Table] = [
            Table(source, name) if room.bounded else source.tensor(name) for name in names
        ]
        return cls(
            runner,
            Head(runner, source.module(family.final_norm), tables[-1], cap),
            embedding(source, tables[0]),
            room.load(source.shape.num_layers, source.layer),
        )

    def __call__(self, input_ids: torch.Tensor, **_use_cache: Any) -> Output:
        """Logits, float32 [B, T, V], of tokens [B, T]."""
        hidden = self.embedding[input_ids]
        for index, layer in enumerate(self.layers):
            hidden = self.runner.at(index).layer(layer, hidden)
        return Output(self.head.logits(hidden))
