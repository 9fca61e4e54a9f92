"""Choices of `lathe plan`: decoders, whole or pruned, in the format that they would be stored in.

They are evaluated side by side, layer by layer: a projection is factorised once for all of them, and of each
decoder no more than a layer is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lathe.artefact.plan import Plan
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.stored_format import FLOAT16, Format
from lathe.compressor.search.block_library import BlockLibrary
from lathe.compressor.search.fitness import Fitness
from lathe.compressor.search.method import Problem


@dataclass(frozen=True)
class Candidate:
    """A share of the decoder, by a plan, in a format. Without a plan it is whole."""

    form: Format
    keep: float = 1.0
    plan: Plan | None = None


@dataclass(frozen=True)
class Choice:
    """One way to store the decoder in a budget.

    Attributes:
        form: How its weights are stored.
        keep: The share of its parameters that is kept, 1 for dense.
        bytes: The size of its weights.
        kl: KL(dense || this) in nats per token.
    """

    form: Format
    keep: float
    bytes: int
    kl: float

    @property
    def name(self) -> str:
        """The treatment of the model, in words."""
        if self.keep == 1:
            return "dense" if self.form == FLOAT16 else f"quantize: {self.form}"
        pruned = f"prune to {self.keep:.0%}"
        return pruned if self.form == FLOAT16 else f"{pruned}, quantize: {self.form}"

    def to_json(self) -> dict[str, Any]:
        """Returns the choice as the document has it."""
        return {
            "name": self.name,
            "format": str(self.form),
            "keep": self.keep,
            "decoder_bytes": self.bytes,
            "kl": self.kl,
        }


@dataclass(frozen=True)
class ChoiceEvaluator:
    """Evaluates candidates against dense on a few held-out windows.

    Attributes:
        problem: The dense model, and what its pruned blocks follow from.
        library: Makes the pruned blocks.
        fitness: Has the windows and the dense model's output.
    """

    problem: Problem
    library: BlockLibrary
    fitness: Fitness

    @torch.inference_mode()
    def __call__(self, candidates: Sequence[Candidate], advance: Callable[[], None]) -> list[Choice]:
        """Evaluates candidates; `advance` is called after every layer."""
        problem, dtype = self.problem, self.problem.source.dtype
        hidden = [problem.embedding[self.fitness.windows]] * len(candidates)
        sizes = [0] * len(candidates)
        for index in range(len(problem.layers)):
            runner = problem.runner.at(index)
            for number, weights in enumerate(self._layers(index, candidates)):
                stored, size = candidates[number].form.store_layer(weights, dtype)
                hidden[number] = runner.layer(stored, hidden[number])
                sizes[number] += size
            advance()
        return [
            Choice(asked.form, asked.keep, size, self.fitness.measure(last))
            for asked, size, last in zip(candidates, sizes, hidden, strict=True)
        ]

    def _layers(self, index: int, candidates: Sequence[Candidate]) -> Iterator[Weights]:
        """Yields a layer of each candidate; the attention of all is made first, then their FFNs."""
        plans = [asked.plan for asked in candidates]
        attention = [
            self.library.block(index, "attention", (plan[index].query_heads, plan[index].kv_heads))
            for plan in plans
            if plan is not None
        ]
        pruned = iter(attention)
        for plan in plans:
            if plan is None:
                yield self.problem.layers[index]
            else:
                yield {**next(pruned), **self.library.block(index, "ffn", plan[index].width)}
