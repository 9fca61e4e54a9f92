"""A model as the stages read it: layers, and what comes before and after them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from lathe.compressor.compute.array_store import ArrayLike, ArrayStore
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.checkpoint import Checkpoint, Table, opened
from lathe.compressor.model.embedding import Embedding, embedding
from lathe.compressor.model.lm_head import LMHead
from lathe.compressor.model.names import EMBEDDING, FINAL_NORM, LM_HEAD


class Output(NamedTuple):
    """The output of a causal LM, as transformers names it."""

    logits: torch.Tensor


@dataclass(frozen=True)
class LayeredModel:
    """A dense or pruned model whose layers are in memory, or are read when asked for.

    Its store decides which. It can be called as a causal LM of transformers. A dense one that travels to
    another process is opened anew there, once.
    """

    source: Checkpoint
    runner: BlockRunner
    head: LMHead
    embedding: Embedding
    layers: Sequence[Weights]

    @classmethod
    def open(cls, source: Checkpoint, store: ArrayStore, runner: BlockRunner | None = None) -> LayeredModel:
        """runner: of the dense model, for a subnet of it."""
        runner = runner or BlockRunner(source)
        cap = source.config.get("final_logit_softcapping")
        names = [f"{EMBEDDING}.weight"]
        if not source.shape.tied_embeddings:
            names.append(f"{LM_HEAD}.weight")
        tables: list[torch.Tensor | Table] = [
            Table(source, name, store.device) if store.bounded else source.tensor(name).to(store.device)
            for name in names
        ]
        return cls(
            source,
            runner,
            LMHead(runner, store.here(source.module(FINAL_NORM)), tables[-1], cap),
            embedding(source, tables[0]),
            store.load(source.shape.num_layers, source.layer),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (str(self.source.path),)

    def embedded(
        self, windows_BT: torch.Tensor, store: ArrayStore, parts: Iterable[torch.Tensor]
    ) -> ArrayLike:
        """Returns the first layer's input [B, T, D] for windows, filled for these parts of them."""
        hidden = store.rows(*windows_BT.shape, self.runner.shape.hidden_size)
        for part in parts:
            hidden[part] = self.embedding[windows_BT[part]]
        return hidden

    def __call__(
        self, input_ids: torch.Tensor, caches: Mapping[int, Any] | None = None, **_use_cache: Any
    ) -> Output:
        """Logits, float32 [B, T, V], of tokens [B, T]; `caches` are empty ones of layers, by index."""
        hidden = self.embedding[input_ids]
        for index, layer in enumerate(self.layers):
            hidden = self.runner.at(index).layer(layer, hidden, ((caches or {}).get(index), 0))
        return Output(self.head.logits(hidden))


@lru_cache(maxsize=1)
def _opened(path: str) -> LayeredModel:
    """A dense model in memory, the last one that was asked for."""
    return LayeredModel.open(opened(path), ArrayStore())
