"""Forward and back through the whole subnet, for the derivatives of KL(dense || subnet) by its projections.

Layers come one at a time, each for all of the text: hidden states at every layer of the subnet are computed
once, and derivatives go down through them, running each layer again. The text is sharded: who holds some
shards keeps their states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import torch

from lathe.artefact.plan import BLOCK_KINDS
from lathe.compressor.compute.array_store import ArrayLike, ArrayStore, Loaded, Tensors
from lathe.compressor.compute.workers import Sharded, shards_of, some_of
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.lm_head import DenseTargets
from lathe.compressor.reconstruction.conjugate import Parts
from lathe.compressor.statistics.gram import Grams

ROWS = 4
"""Windows of a batch."""
_FACTOR_BATCHES = 8
Shards = Sequence[Sequence[torch.Tensor]]
"""Batches of windows, by shard."""
Vectors = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(windows of a batch, what the head reads of them [B, T, D]) -> v [B, T, D]."""


@dataclass(eq=False)
class KLProblem(Sharded["KLPasses"]):
    """What a round is about. model: dense. subnet: its layers' present weights. windows: [B, T] tokens;
    heldout: [B] bool. store: for hidden states and vectors.
    """

    model: LayeredModel
    subnet: Sequence[Weights]
    windows: torch.Tensor
    heldout: torch.Tensor
    store: ArrayStore = field(default_factory=ArrayStore)

    def batches(self, heldout: bool) -> Sequence[torch.Tensor]:
        return torch.nonzero(self.heldout == heldout)[:, 0].split(ROWS)

    @property
    def tokens(self) -> int:
        """That are fitted on."""
        return int((~self.heldout).sum()) * self.windows.shape[1]

    def projections(self, index: int) -> Tensors:
        """A layer's matrices that the round changes."""
        runner = self.model.runner
        names = {name for kind in BLOCK_KINDS for name in runner.projections(kind)}
        return {n: w for n, w in self.subnet[index].items() if n in names}

    def layers(self, weights: Parts) -> Sequence[Tensors]:
        """The subnet with other weights in these matrices' places."""
        return Loaded(len(self.subnet), lambda i: {**self.subnet[i], **weights[i]})

    def hold(self, shards: range) -> KLPasses:
        return KLPasses(self, shards)


class KLPasses:
    """Of some shards of the text, forward and back. What is summed over batches comes by shard; what comes
    layer by layer comes from the last layer down.
    """

    def __init__(self, text: KLProblem, shards: range) -> None:
        self._text, self._runner, self._head = text, text.model.runner, text.model.head
        self._shards = shards
        self._fit, self._held = (shards_of(text.batches(apart), shards) for apart in (False, True))
        self._below: list[ArrayLike] = []
        self._targets: list[list[tuple[torch.Tensor, DenseTargets]]] = []

    def divergences(self, weights: Parts) -> Iterable[list[list[tuple[int, float]]]]:
        """(windows, mean KL in nats per token) of each held-out batch."""
        if not self._targets:
            dense = self._run(self._text.model.layers, self._held)
            self._targets = [[(b, self._head.targets(dense[b])) for b in shard] for shard in self._held]
        hidden = self._run(self._text.layers(weights), self._held)
        yield [[(len(b), self._head.kl(t, hidden[b])) for b, t in shard] for shard in self._targets]

    def descent(self) -> Iterable[Iterable[Tensors]]:
        """Minus the gradient per token, of each layer's projections."""
        dense = self._run(self._text.model.layers, self._fit)

        def missing(part: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
            return self._head.difference(self._normed(dense, part), normed)

        return self._pull(missing)

    def curvature(self, moved: Parts, length: float) -> Iterable[Iterable[Tensors]]:
        """J^T H J d per token; moved: the projections, moved by `length` times d."""
        there = self._run(self._text.layers(moved), self._fit)

        def image(part: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
            return self._head.curvature(normed, (self._normed(there, part) - normed) / length)

        return self._pull(image)

    def grams(self) -> Iterable[Iterable[Grams]]:
        """Of what each layer's projections read and of the gradients at what they give."""
        chosen = some_of(self._text.batches(False), self._shards, _FACTOR_BATCHES)

        def drawn(part: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
            return self._head.sampled_gradient(normed, torch.Generator().manual_seed(int(part[0])))

        gradient = self._at_the_head(chosen, drawn)
        for index in reversed(range(len(self._text.subnet))):
            yield map(partial(self._grams, index, gradient), chosen)

    def _grams(self, index: int, gradient: ArrayLike, shard: Sequence[torch.Tensor]) -> Grams:
        """Of one layer; moves the gradient below it."""
        layer, runner = self._text.subnet[index], self._runner.at(index)
        grams = Grams.of(self._text.projections(index))
        for part in shard:
            seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
            below = self._states[index][part].requires_grad_()
            with torch.enable_grad():
                hidden = below
                for kind, run in zip(BLOCK_KINDS, (runner.attention, runner.ffn), strict=True):
                    with runner.watch(kind) as watched:
                        hidden = run(layer, hidden)
                    seen |= watched
            outputs = [below, *(made for _, made in seen.values())]
            gradient[part], *found = torch.autograd.grad(hidden, outputs, gradient[part])
            for (name, (read, _)), value in zip(seen.items(), found, strict=True):
                grams.add_batch(name, read.detach(), value)
        return grams

    def _pull(self, vectors: Vectors) -> Iterator[Iterable[Tensors]]:
        """J^T v per token."""
        tokens = self._text.tokens
        gradient = self._at_the_head(self._fit, lambda part, normed: vectors(part, normed) / tokens)
        for index in reversed(range(len(self._text.subnet))):
            yield map(partial(self._gradients, index, gradient), self._fit)

    def _gradients(self, index: int, gradient: ArrayLike, shard: Sequence[torch.Tensor]) -> Tensors:
        """By a layer's projections; moves the gradient below the layer."""
        layer, runner = self._text.subnet[index], self._runner.at(index)
        leaves = {n: w.clone().requires_grad_() for n, w in self._text.projections(index).items()}
        for part in shard:
            below = self._states[index][part].requires_grad_()
            with torch.enable_grad():
                hidden = runner.layer({**layer, **leaves}, below)
            hidden.backward(gradient[part])
            assert below.grad is not None
            gradient[part] = below.grad
        return {n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}

    def _at_the_head(self, shards: Shards, vectors: Vectors) -> ArrayLike:
        """[B, T, D]: v at what the head reads, moved below the final norm."""
        gradient = self._rows()
        for part in chain(*shards):
            last = self._states[-1][part].requires_grad_()
            with torch.enable_grad():
                normed = self._head.normed(last)
            (gradient[part],) = torch.autograd.grad(normed, [last], vectors(part, normed.detach()))
        return gradient

    @property
    def _states(self) -> list[ArrayLike]:
        """What every layer of the subnet reads, and what the head's norm does, of the windows to fit."""
        if not self._below:
            self._below = [self._embedded(self._fit)]
            for index in range(len(self._text.subnet)):
                self._below.append(self._rows())
                self._step(self._text.subnet, index, self._fit, *self._below[-2:])
        return self._below

    def _run(self, layers: Sequence[Weights], shards: Shards) -> ArrayLike:
        """The residual stream [B, T, D] after the last layer, of these windows."""
        hidden = self._embedded(shards)
        for index in range(len(layers)):
            self._step(layers, index, shards, hidden, hidden)
        return hidden

    @torch.no_grad()
    def _step(
        self, layers: Sequence[Weights], index: int, shards: Shards, before: ArrayLike, after: ArrayLike
    ) -> None:
        runner, layer = self._runner.at(index), layers[index]
        for part in chain(*shards):
            after[part] = runner.layer(layer, before[part])

    def _embedded(self, shards: Shards) -> ArrayLike:
        return self._text.model.embedded(self._text.windows, self._text.store, chain(*shards))

    def _rows(self) -> ArrayLike:
        return self._text.store.rows(*self._text.windows.shape, self._runner.shape.hidden_size)

    @torch.no_grad()
    def _normed(self, hidden: ArrayLike, part: torch.Tensor) -> torch.Tensor:
        return self._head.normed(hidden[part])
