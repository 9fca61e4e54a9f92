"""The subnet as a whole: damped Gauss-Newton steps on KL(dense || subnet), after every block was reformed.

A block's reform mends the residual stream, all of it alike; what counts is what the head makes of it in the
end. With p the dense model's next-token distribution, q the subnet's, n what the head (W [V, D]) reads and J
its Jacobian by all projections of all layers:

    descent = J^T W^T (p - q),    curvature = J^T W^T (diag q - q q^T) W J

solved for in `conjugate.py`. The targets are the dense model's own distributions: no labels. A round is one
step, linearised anew; a round that no held-out window gains from is dropped.

Layers come one at a time, each for all of the text: hidden states at every layer of the subnet are computed
once a round, and derivatives go down through them, running each layer again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from compressor.forward import BlockRunner, Weights
from compressor.reform.conjugate import Factors, Parts, add, factors_of, iterates, small_step
from compressor.room import Loaded, Room, Rows, Tensors
from compressor.search.fitness import DenseTargets, Head
from compressor.statistics.gram import Gram

ITERATIONS = 4
WORTHWHILE = 0.98
"""A round that leaves more than this share of the divergence is the last."""
_DAMPING = 1.0
ROWS = 4
"""Windows of a batch."""
_FACTOR_BATCHES = 8
Vectors = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(windows of a batch, what the head reads of them [B, T, D]) -> v [B, T, D]."""


def refine_model(
    runner: BlockRunner, head: Head, dense: Sequence[Weights], subnet: Sequence[Weights],
    embedded: Rows, heldout: torch.Tensor, advance: Callable[[], None] = lambda: None,
    room: Room | None = None,
) -> tuple[Sequence[Tensors], float, float]:  # fmt: skip
    """The layers after one round, and KL(dense || subnet) in nats per held-out token before and after it.

    Args:
        dense, subnet: layers. embedded: [B, T, D]. heldout: [B] bool. advance: called after every iteration.
        room: for hidden states and vectors.
    """
    step = ModelStep(runner, head, dense, subnet, embedded, heldout, room or Room())
    found = iterates(step, ITERATIONS, patience=1)
    best = next(found)
    before = best[0]
    advance()
    for error, weights in found:
        advance()
        if error < best[0]:
            best = (error, weights)
    return step.layers(best[1]), before, best[0]


class ModelStep:
    """The problem of one round around the subnet's present weights; arguments as `refine_model`."""

    def __init__(
        self, runner: BlockRunner, head: Head, dense: Sequence[Weights], subnet: Sequence[Weights],
        embedded: Rows, heldout: torch.Tensor, room: Room,
    ) -> None:  # fmt: skip
        self._runner, self._head, self._dense, self._subnet = runner, head, dense, subnet
        self._embedded, self.room = embedded, room
        self._fit, held = (torch.nonzero(heldout == apart)[:, 0].split(ROWS) for apart in (False, True))
        self._names = {n for kind in ("attention", "ffn") for n in runner.projections(kind)}
        self._tokens = sum(len(p) for p in self._fit) * embedded.shape[1]
        self._below: list[Rows] = []
        targets = self._run(dense, held)
        self._heldout: list[tuple[torch.Tensor, DenseTargets]] = [(b, head.targets(targets[b])) for b in held]

    @property
    def start(self) -> Parts:
        return Loaded(len(self._subnet), lambda i: self._projections(self._subnet[i]))

    def _projections(self, layer: Weights) -> Tensors:
        return {n: w for n, w in layer.items() if n in self._names}

    def layers(self, weights: Parts) -> Sequence[Tensors]:
        return Loaded(len(self._subnet), lambda i: {**self._subnet[i], **weights[i]})

    def error(self, weights: Parts) -> float:
        """KL in nats per held-out token."""
        hidden = self._run(self.layers(weights), [b for b, _ in self._heldout])
        parts = [(len(b), self._head.kl(targets, hidden[b])) for b, targets in self._heldout]
        return sum(rows * kl for rows, kl in parts) / sum(rows for rows, _ in parts)

    def descent(self) -> Parts:
        dense = self._run(self._dense, self._fit)

        def missing(part: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
            return self._head.difference(self._normed(dense, part), normed)

        return self._pull(missing)

    def curvature(self, direction: Parts) -> Parts:
        length = small_step(self.start, direction)
        moved = self._run(self.layers(self.room.keep(add(self.start, direction, length))), self._fit)

        def image(part: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
            return self._head.curvature(normed, (self._normed(moved, part) - normed) / length)

        return self._pull(image)

    def factors(self) -> Factors:
        """From the gradients of tokens drawn from the subnet's own distribution, on a few batches."""
        generator = torch.Generator().manual_seed(0)
        parts = self._fit[:: max(1, len(self._fit) // _FACTOR_BATCHES)][:_FACTOR_BATCHES]
        gradient = self._at_the_head(
            parts, lambda _, normed: self._head.sampled_gradient(normed, generator)
        )
        ridges: list[dict[str, float]] = []

        def inverses() -> Iterator[Tensors]:
            for index in reversed(range(len(self._subnet))):
                found, ridge = factors_of(*self._grams(index, parts, gradient), _DAMPING)
                ridges.insert(0, ridge)
                yield found

        return Factors(self.room.keep(inverses(), backwards=True), ridges)

    def _grams(
        self, index: int, parts: Sequence[torch.Tensor], gradient: Rows
    ) -> tuple[dict[str, Gram], dict[str, Gram]]:
        """Of what a layer's projections read and of the gradients at what they give; moves the gradient
        below the layer."""
        layer, runner = self._subnet[index], self._runner.at(index)
        reads = {n: Gram(w.shape[1]) for n, w in self._projections(layer).items()}
        gives = {n: Gram(w.shape[0]) for n, w in self._projections(layer).items()}
        for part in parts:
            seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
            below = self._states[index][part].requires_grad_()
            with torch.enable_grad():
                hidden = below
                for kind, run in (("attention", runner.attention), ("ffn", runner.ffn)):
                    with runner.watch(kind) as watched:
                        hidden = run(layer, hidden)
                    seen |= watched
            outputs = [below, *(made for _, made in seen.values())]
            gradient[part], *found = torch.autograd.grad(hidden, outputs, gradient[part])
            for (name, (read, _)), value in zip(seen.items(), found, strict=True):
                reads[name].add_batch(read.detach())
                gives[name].add_batch(value)
        return reads, gives

    def _pull(self, vectors: Vectors) -> Parts:
        """J^T v per token."""
        gradient = self._at_the_head(self._fit, lambda part, normed: vectors(part, normed) / self._tokens)

        def layer_by_layer() -> Iterator[Tensors]:
            for index in reversed(range(len(self._subnet))):
                yield self._gradients(index, gradient)

        return self.room.keep(layer_by_layer(), backwards=True)

    def _gradients(self, index: int, gradient: Rows) -> Tensors:
        """By a layer's projections; moves the gradient below the layer."""
        layer, runner = self._subnet[index], self._runner.at(index)
        leaves = {n: w.clone().requires_grad_() for n, w in self._projections(layer).items()}
        for part in self._fit:
            below = self._states[index][part].requires_grad_()
            with torch.enable_grad():
                hidden = runner.layer({**layer, **leaves}, below)
            hidden.backward(gradient[part])
            assert below.grad is not None
            gradient[part] = below.grad
        return {n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}

    def _at_the_head(self, parts: Sequence[torch.Tensor], vectors: Vectors) -> Rows:
        """[B, T, D]: v at what the head reads, moved below the final norm."""
        gradient = self.room.rows(*self._embedded.shape)
        for part in parts:
            last = self._states[-1][part].requires_grad_()
            with torch.enable_grad():
                normed = self._head.normed(last)
            (gradient[part],) = torch.autograd.grad(normed, [last], vectors(part, normed.detach()))
        return gradient

    @property
    def _states(self) -> list[Rows]:
        """What every layer of the subnet reads, and what the head's norm does, of the windows to fit."""
        if not self._below:
            self._below = [self._embedded]
            for index in range(len(self._subnet)):
                self._below.append(self.room.rows(*self._embedded.shape))
                self._step(self._subnet, index, self._fit, *self._below[-2:])
        return self._below

    def _run(self, layers: Sequence[Weights], parts: Sequence[torch.Tensor]) -> Rows:
        """The residual stream [B, T, D] after the last layer, of these windows."""
        hidden = self.room.rows(*self._embedded.shape)
        for part in parts:
            hidden[part] = self._embedded[part]
        for index in range(len(layers)):
            self._step(layers, index, parts, hidden, hidden)
        return hidden

    @torch.no_grad()
    def _step(
        self, layers: Sequence[Weights], index: int, parts: Sequence[torch.Tensor], before: Rows, after: Rows
    ) -> None:
        runner, layer = self._runner.at(index), layers[index]
        for part in parts:
            after[part] = runner.layer(layer, before[part])

    @torch.no_grad()
    def _normed(self, hidden: Rows, part: torch.Tensor) -> torch.Tensor:
        return self._head.normed(hidden[part])
