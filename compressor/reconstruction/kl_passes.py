"""Passes through the whole subnet, for the derivatives of KL(dense || subnet) by its projections.

Layers come one at a time, each for all of the text: hidden states at every layer of the subnet are computed
once, and derivatives go down through them, running each layer again. The text is sharded: a process that
holds some shards keeps their states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Protocol

import torch

from lathe.artefact.plan import BLOCK_KINDS, BlockKind
from lathe.compressor.compute.array_store import ArrayLike, ArrayStore, Loaded, Tensors
from lathe.compressor.compute.precision import fast_products, has_bfloat16, products, rounded_factors
from lathe.compressor.compute.workers import Sharded, shards_of, some_of
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.lm_head import DenseTargets
from lathe.compressor.reconstruction.conjugate_gradients import Parts
from lathe.compressor.statistics.collect import batches_of
from lathe.compressor.statistics.gram import Grams

ROWS = 4
"""Windows of a batch."""
_FACTOR_BATCHES = 4
Shards = Sequence[Sequence[torch.Tensor]]
"""Batches of windows, by shard."""
Vectors = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(windows of a batch, the head's input for them [B, T, D]) -> v [B, T, D]."""


class KnownStates(Protocol):
    """Hidden states by windows, such as a tensor."""

    def __getitem__(self, part: torch.Tensor, /) -> torch.Tensor:
        """Returns those of some windows, [n, T, D]."""


@dataclass(eq=False)
class KLProblem(Sharded["KLPasses"]):
    """The problem of one round: KL(dense || subnet) on a text.

    Attributes:
        model: The dense model.
        subnet: The present weights of the subnet's layers.
        windows: [B, T] tokens.
        heldout: [B] bool.
        store: Keeps hidden states and vectors.
        bfloat16: Whether the divergence, too, may come from hidden states that bfloat16 products give.
        dense: The dense model's hidden states after the last layer [B, T, D], where they are known.
        keep_zeros: Whether weights that are zero stay zero.
        outputs_only: Whether output projections alone are refined.
        fixed: Names of matrices of each layer that stay as they are; empty where there are none.
    """

    model: LayeredModel
    subnet: Sequence[Weights]
    windows: torch.Tensor
    heldout: torch.Tensor
    store: ArrayStore = field(default_factory=ArrayStore)
    bfloat16: bool = False
    dense: KnownStates | None = None
    keep_zeros: bool = False
    outputs_only: bool = False
    fixed: Sequence[Set[str]] = ()

    def some(self, chosen: torch.Tensor) -> KLProblem:
        """Returns the problem on the windows with these indices alone."""
        dense = None if self.dense is None else self.dense[chosen]
        return replace(self, windows=self.windows[chosen], heldout=self.heldout[chosen], dense=dense)

    def batches(self, heldout: bool) -> Sequence[torch.Tensor]:
        """Returns index batches of the held-out windows, or of those to fit."""
        return batches_of(self.heldout, heldout, ROWS)

    def projections(self, index: int) -> Tensors:
        """Returns a layer's matrices that the round changes."""
        names = {name for kind in BLOCK_KINDS for name in self.refined(index, kind)}
        return {n: w for n, w in self.subnet[index].items() if n in names}

    def refined(self, index: int, kind: BlockKind) -> list[str]:
        """Returns the names of the matrices of a layer's block that the round changes."""
        fixed = self.fixed[index] if self.fixed else ()
        names = self.model.runner.projections(kind)[-1 if self.outputs_only else 0 :]
        return [name for name in names if name not in fixed]

    def free(self, vectors: Iterable[Tensors]) -> Iterator[Tensors]:
        """Yields the parts of a vector, one for each layer, without what is to stay zero."""
        for index, part in enumerate(vectors):
            if self.keep_zeros:
                kept = self.projections(index)
                part = {name: value * (kept[name] != 0) for name, value in part.items()}
            yield part

    def layers(self, weights: Parts) -> Sequence[Tensors]:
        """Returns the subnet's layers with other weights in the place of these matrices."""
        return Loaded(len(self.subnet), lambda i: {**self.subnet[i], **weights[i]})

    def hold(self, shards: range) -> KLPasses:
        """Returns the passes over these shards."""
        return KLPasses(self, shards)


class KLPasses:
    """Runs the dense model and the subnet on some shards of the text, forward and backward.

    Results that are summed over batches come shard by shard; results by layer come from the last layer down.
    """

    def __init__(self, problem: KLProblem, shards: range) -> None:
        self._problem, self._runner, self._head = problem, problem.model.runner, problem.model.head
        self._shards = shards
        self._fit, self._heldout = (shards_of(problem.batches(heldout), shards) for heldout in (False, True))
        self._below: list[ArrayLike] = []
        self._here: ArrayLike | None = None
        self._targets: list[list[tuple[torch.Tensor, DenseTargets]]] = []

    def divergences(self, weights: Parts) -> Iterable[list[list[tuple[int, float]]]]:
        """Measures (windows, mean KL in nats per token) of each held-out batch."""
        problem = self._problem
        with products(problem.store.device, problem.bfloat16):
            dense = None if self._targets else self._dense(self._heldout)
            hidden = self._run(problem.layers(weights), self._heldout)
        if dense is not None:
            self._targets = [[(b, self._head.targets(dense[b])) for b in shard] for shard in self._heldout]
        yield [[(len(b), self._head.kl(t, hidden[b])) for b, t in shard] for shard in self._targets]

    def descent(self) -> Iterable[Iterable[Tensors]]:
        """Computes minus the gradient per token with respect to each layer's projections."""
        with self._fast():
            dense = self._dense(self._fit)

        def missing(part: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
            with self._fast():
                return self._head.difference(self._normed(dense, part), normed)

        return self._pull_back(missing)

    def curvature(self, moved: Parts, length: float) -> Iterable[Iterable[Tensors]]:
        """Computes J^T H J d per token; `moved` are the projections moved by `length` times d."""
        there = self._run(self._problem.layers(moved), self._fit)
        here = self._exact()

        def image(part: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
            change = (self._normed(there, part) - self._normed(here, part)) / length
            return self._head.curvature(normed, change)

        return self._pull_back(image)

    def grams(self, inputs: bool = True) -> Iterable[Iterable[Grams]]:
        """Accumulates Gram matrices of each layer's projections: of inputs, and of gradients at outputs.

        inputs: False leaves those of inputs out.
        """
        chosen = some_of(self._problem.batches(False), self._shards, _FACTOR_BATCHES)

        def drawn(part: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
            with self._fast():
                return self._head.sampled_gradient(normed, torch.Generator().manual_seed(int(part[0])))

        gradient = self._at_the_head(chosen, drawn)
        for index in reversed(range(len(self._problem.subnet))):
            yield map(partial(self._grams, index, gradient, inputs), chosen)

    def _grams(self, index: int, gradient: ArrayLike, inputs: bool, shard: Sequence[torch.Tensor]) -> Grams:
        """Accumulates one layer's Gram matrices and moves the gradient below the layer."""
        layer, runner = self._problem.subnet[index], self._runner.at(index)
        grams = Grams.of(self._problem.projections(index), inputs)
        for part in shard:
            watched: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
            below = self._states[index][part].requires_grad_()
            with torch.enable_grad(), fast_products(below.device):
                hidden = below
                for kind, run in zip(BLOCK_KINDS, (runner.attention, runner.ffn), strict=True):
                    with runner.watch(kind, self._problem.refined(index, kind)) as of_block:
                        hidden = run(layer, hidden)
                    watched |= of_block
            outputs = [below, *(made for _, made in watched.values())]
            gradient[part], *found = torch.autograd.grad(hidden, outputs, gradient[part])
            with rounded_factors(below.device):
                for (name, (x, _)), value in zip(watched.items(), found, strict=True):
                    grams.add_batch(name, x.detach(), value)
        return grams

    def _pull_back(self, vectors: Vectors) -> Iterator[Iterable[Tensors]]:
        """Computes J^T v per token of the text to fit."""
        tokens = int((~self._problem.heldout).sum()) * self._problem.windows.shape[1]
        gradient = self._at_the_head(self._fit, lambda part, normed: vectors(part, normed) / tokens)
        for index in reversed(range(len(self._problem.subnet))):
            yield map(partial(self._gradients, index, gradient), self._fit)

    def _gradients(self, index: int, gradient: ArrayLike, shard: Sequence[torch.Tensor]) -> Tensors:
        """Computes gradients with respect to a layer's projections and moves the gradient below the layer."""
        layer, runner = self._problem.subnet[index], self._runner.at(index)
        leaves = {n: w.clone().requires_grad_() for n, w in self._problem.projections(index).items()}
        for part in shard:
            below = self._states[index][part].requires_grad_()
            with torch.enable_grad(), fast_products(below.device):
                hidden = runner.layer({**layer, **leaves}, below)
            hidden.backward(gradient[part])
            assert below.grad is not None
            gradient[part] = below.grad
        return {n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}

    def _at_the_head(self, shards: Shards, vectors: Vectors) -> ArrayLike:
        """Returns v at the head's input, moved below the final norm, [B, T, D]."""
        gradient = self._rows()
        for part in chain(*shards):
            last = self._states[-1][part].requires_grad_()
            with torch.enable_grad():
                normed = self._head.normed(last)
            (gradient[part],) = torch.autograd.grad(normed, [last], vectors(part, normed.detach()))
        return gradient

    @property
    def _states(self) -> list[ArrayLike]:
        """Returns the inputs of every layer of the subnet and of the final norm, for the windows to fit."""
        if not self._below:
            self._below = [self._embedded(self._fit)]
            with self._fast():
                for index in range(len(self._problem.subnet)):
                    self._below.append(self._rows())
                    self._step(self._problem.subnet, index, self._fit, *self._below[-2:])
        return self._below

    def _exact(self) -> ArrayLike:
        """Returns the subnet's stream after the last layer in float32, for the windows to fit."""
        if not has_bfloat16(self._problem.store.device):
            return self._states[-1]
        if self._here is None:
            self._here = self._run(self._problem.subnet, self._fit)
        return self._here

    def _dense(self, shards: Shards) -> KnownStates:
        """Returns the dense model's hidden states after the last layer for these windows."""
        known = self._problem.dense
        return self._run(self._problem.model.layers, shards) if known is None else known

    def _run(self, layers: Sequence[Weights], shards: Shards) -> ArrayLike:
        """Returns the residual stream after the last layer for these windows, [B, T, D]."""
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
        return self._problem.model.embedded(self._problem.windows, self._problem.store, chain(*shards))

    def _rows(self) -> ArrayLike:
        return self._problem.store.rows(*self._problem.windows.shape, self._runner.shape.hidden_size)

    def _fast(self) -> AbstractContextManager[object]:
        """Returns a context for hidden states that only derivatives are taken at."""
        return fast_products(self._problem.store.device)

    @torch.no_grad()
    def _normed(self, hidden: KnownStates, part: torch.Tensor) -> torch.Tensor:
        return self._head.normed(hidden[part])
