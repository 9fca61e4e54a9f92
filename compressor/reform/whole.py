"""The subnet as a whole: damped Gauss-Newton steps on KL(dense || subnet), after every block was reformed.

A block's reform mends the residual stream, all of it alike; what counts is what the head makes of it in the
end. With p the dense model's next-token distribution, q the subnet's, n what the head (W [V, D]) reads and J
its Jacobian by all projections of all layers:

    descent = J^T W^T (p - q),    curvature = J^T W^T (diag q - q q^T) W J

solved for in `conjugate.py`. The targets are the dense model's own distributions: no labels. A round is one
step, linearised anew; a round that no held-out window gains from is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from compressor.forward import BlockRunner, Weights
from compressor.reform.conjugate import Factors, Tensors, add, iterates, small_step
from compressor.search.fitness import Head
from compressor.statistics.gram import Gram

ITERATIONS = 4
WORTHWHILE = 0.98
"""A round that leaves more than this share of the divergence is the last."""
_DAMPING = 1.0
_ROWS = 4
_FACTOR_BATCHES = 8


def refine_model(
    runner: BlockRunner, head: Head, dense: Sequence[Weights], subnet: Sequence[Weights],
    embedded: torch.Tensor, heldout: torch.Tensor, advance: Callable[[], None] = lambda: None,
) -> tuple[list[Tensors], float, float]:  # fmt: skip
    """The layers after one round, and KL(dense || subnet) in nats per held-out token before and after it.

    Args:
        dense, subnet: layers. embedded: [B, T, D]. heldout: [B] bool. advance: called after every iteration.
    """
    step = ModelStep(runner, head, dense, subnet, embedded, heldout)
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
        embedded: torch.Tensor, heldout: torch.Tensor,
    ) -> None:  # fmt: skip
        self._runner, self._head, self._dense, self._subnet = runner, head, dense, subnet
        self._embedded = embedded
        self._fit, held = (torch.nonzero(heldout == apart)[:, 0].split(_ROWS) for apart in (False, True))
        self.start = {
            f"{index}:{name}": layer[name]
            for index, layer in enumerate(subnet)
            for kind in ("attention", "ffn")
            for name in runner.projections(kind)
            if name in layer
        }
        with torch.no_grad():
            self._heldout = [(b, head.targets(self._hidden(dense, embedded[b]))) for b in held]

    def layers(self, weights: Tensors) -> list[Tensors]:
        return [
            {name: weights.get(f"{index}:{name}", tensor) for name, tensor in layer.items()}
            for index, layer in enumerate(self._subnet)
        ]

    @torch.no_grad()
    def error(self, weights: Tensors) -> float:
        """KL in nats per held-out token."""
        layers = self.layers(weights)
        parts = [
            (len(b), self._head.kl(targets, self._hidden(layers, self._embedded[b])))
            for b, targets in self._heldout
        ]
        return sum(rows * kl for rows, kl in parts) / sum(rows for rows, _ in parts)

    def descent(self) -> Tensors:
        def missing(part: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
            dense = self._normed(self._dense, self._embedded[part])
            return self._head.difference(dense, normed)

        return self._pull(missing)

    def curvature(self, direction: Tensors) -> Tensors:
        length = small_step(self.start, direction)
        moved = self.layers(add(self.start, direction, length))

        def image(part: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
            change = (self._normed(moved, self._embedded[part]) - normed) / length
            return self._head.curvature(normed, change)

        return self._pull(image)

    def factors(self) -> Factors:
        """From the gradients of tokens drawn from the subnet's own distribution, on a few batches."""
        reads = {n: Gram(w.shape[1]) for n, w in self.start.items()}
        gives = {n: Gram(w.shape[0]) for n, w in self.start.items()}
        generator = torch.Generator().manual_seed(0)
        for part in self._fit[:: max(1, len(self._fit) // _FACTOR_BATCHES)][:_FACTOR_BATCHES]:
            seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
            with torch.enable_grad():
                layers = self.layers({n: w.clone().requires_grad_() for n, w in self.start.items()})
                normed = self._normed(layers, self._embedded[part], seen)
            probe = self._head.sampled_gradient(normed.detach(), generator)
            gradients = torch.autograd.grad(normed, [made for _, made in seen.values()], probe)
            for (name, (read, _)), gradient in zip(seen.items(), gradients, strict=True):
                reads[name].add_batch(read.detach())
                gives[name].add_batch(gradient)
        return Factors({n: reads[n].mean() for n in reads}, {n: gives[n].mean() for n in gives}, _DAMPING)

    def _pull(self, vectors: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Tensors:
        """J^T v per token with v of a batch made from its indices and what the head reads of it."""
        leaves = {n: w.clone().requires_grad_() for n, w in self.start.items()}
        tokens = sum(len(p) for p in self._fit) * self._embedded.shape[1]
        for part in self._fit:
            with torch.enable_grad():
                normed = self._normed(self.layers(leaves), self._embedded[part])
            with torch.no_grad():
                vector = vectors(part, normed.detach())
            normed.backward(vector / tokens)
        return {n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}

    def _hidden(
        self,
        layers: Sequence[Weights],
        hidden_BTD: torch.Tensor,
        seen: dict[str, tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> torch.Tensor:
        """The residual stream after the last layer. seen: takes what every projection reads and gives."""
        for index, layer in enumerate(layers):
            runner = self._runner.at(index)
            for kind, run in (("attention", runner.attention), ("ffn", runner.ffn)):
                if seen is None:
                    hidden_BTD = run(layer, hidden_BTD)
                    continue
                with runner.watch(kind) as watched:
                    hidden_BTD = run(layer, hidden_BTD)
                seen |= {f"{index}:{name}": pair for name, pair in watched.items()}
        return hidden_BTD

    def _normed(
        self,
        layers: Sequence[Weights],
        hidden_BTD: torch.Tensor,
        seen: dict[str, tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> torch.Tensor:
        return self._head.normed(self._hidden(layers, hidden_BTD, seen))
