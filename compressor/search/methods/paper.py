"""The paper's evolution (arXiv 2409.17372, Alg. 1 and Sec. 3.3), for comparison.

Masks start from the initialisation score at one uniform ratio. Fitness is perplexity on a few calibration
samples, without reconstruction; the winner is reconstructed once, by ADMM. There are 5,000 candidates;
`evaluations` shortens population and epochs alike.

Two departures, both because the printed text cannot run (docs/method.md): the mask mutation keeps a
random 80 % of the current set and refills the rest at random, where the printed rejection sampling fails
at most ratios; attention keeps whole heads, because a per-head width is a per-head head dimension that
no serving engine takes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, ModelShape, Plan
from lathe.compressor.model.pruning import Selection, prune_attention, prune_ffn, select, select_plan
from lathe.compressor.search.method import Method, Problem, SearchResult, methods
from lathe.compressor.search.published import EVALUATIONS, SIMILARITY, Breeding, Effort, evolve, resample
from lathe.compressor.search.uniform_plan import uniform_plan

_FLOOR = 0.95
_TOKENS = 2048
_Level = TypeVar("_Level")


@dataclass(frozen=True)
class Candidate:
    """One mask per layer."""

    selections: tuple[Selection, ...]

    @property
    def plan(self) -> Plan:
        """Returns the widths of the masks."""
        return Plan(tuple(s.shape for s in self.selections))

    @property
    def key(self) -> str:
        """Returns a digest of the masks."""
        digest = hashlib.sha256()
        for s in self.selections:
            for part in (s.kv_heads, s.query_heads, s.channels):
                digest.update(part.numpy().tobytes() + b"|")
        return f"mask {digest.hexdigest()[:24]}"


def search(problem: Problem) -> SearchResult:
    """Finds the mask of least perplexity within the budget."""
    breeder, effort = Breeder(problem), Effort.of(problem.evaluations)

    def evaluate(candidate: Candidate, epoch: int) -> float:
        return problem.trace.evaluate(candidate.key, partial(breeder.loss, candidate), epoch=epoch)

    with problem.progress.stage("search: the paper's evolution", effort.total) as bar:
        best = evolve(
            breeder, effort, evaluate, bar.advance, lambda loss: bar.note(f"loss {loss:.4f} nats/token")
        )
    return SearchResult(best.candidate.plan, list(best.candidate.selections), best.fitness, best.evaluated)


class Breeder(Breeding[Candidate]):
    """Makes candidates within the budget, and evaluates them."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.seed)
        self._problem = problem
        self._torch = torch.Generator().manual_seed(problem.seed)
        count = min(len(problem.windows), max(1, _TOKENS // problem.windows.shape[1]))
        self._windows = problem.windows[:count]

    def uniform(self) -> Candidate:
        """Returns the score's best units at the widest uniform widths that fit."""
        plan, rankings = uniform_plan(self._problem), self._problem.rankings
        return Candidate(tuple(select_plan(rankings, plan)))

    def cross(self, first: Candidate, second: Candidate) -> Candidate:
        """Takes the mask of each layer from either parent."""
        pairs = zip(first.selections, second.selections, strict=True)
        return Candidate(tuple(self.rng.choice(pair) for pair in pairs))

    @torch.inference_mode()
    def loss(self, candidate: Candidate) -> float:
        """Computes nats per token on the fitness samples, with weights as they were."""
        problem = self._problem
        hidden = problem.embedding[self._windows]
        shape = problem.source.shape
        for index, (weights, kept) in enumerate(zip(problem.layers, candidate.selections, strict=True)):
            pruned = prune_attention(shape, weights, kept) | prune_ffn(weights, kept)
            hidden = problem.runner.at(index).layer(pruned, hidden)
        return problem.head.loss(self._windows, hidden)

    def in_range(self, candidate: Candidate) -> bool:
        """Tells whether a candidate uses nearly all of the budget, and no more."""
        plan = candidate.plan
        used = max(
            (c.cost(plan) - outside) / max(c.limit - outside, 1e-12)
            for c in self._problem.constraints
            for outside in [c.outside(self._problem.space)]
        )
        return any(layer.kv_heads for layer in plan) and _FLOOR <= used <= 1 + 1e-9

    def mutate(self, parent: Candidate, mask: float, ratio: float, depth: float) -> Candidate:
        """Changes widths and masks at random; whole layers are dropped or return with probability `depth`."""
        layers = []
        for index, selection in enumerate(parent.selections):
            shape = self._new_shape(selection.shape, ratio)
            if self.rng.random() < depth / len(parent.selections):
                empty = LayerShape(0, 0, 0)
                shape = self._problem.source.shape.layer if selection.shape == empty else empty
            layers.append(self._new_mask(index, selection, shape, mask))
        return Candidate(tuple(layers))

    def _new_shape(self, shape: LayerShape, ratio: float) -> LayerShape:
        space = self._problem.space
        heads, width = (shape.query_heads, shape.kv_heads), shape.ffn
        if heads[0] and self.rng.random() < ratio:
            heads = self._near(space.attention[:-1], heads)
        if width and self.rng.random() < ratio:
            width = self._near(space.widths[:-1], width)
        return LayerShape(*heads, width)

    def _near(self, levels: Sequence[_Level], level: _Level) -> _Level:
        at = levels.index(level) + self.rng.choice((-2, -1, 1, 2))
        return levels[min(max(at, 0), len(levels) - 1)]

    def _new_mask(self, index: int, selection: Selection, shape: LayerShape, mask: float) -> Selection:
        ranking, dense = self._problem.rankings[index], self._problem.source.shape.layer
        redraw = self.rng.random() < mask
        if not redraw and shape == selection.shape:
            return selection
        if not len(selection.channels) and not len(selection.kv_heads):
            return select(ranking, shape)
        kv_heads = self._resample(selection.kv_heads, dense.kv_heads, shape.kv_heads, redraw)
        channels = self._resample(selection.channels, dense.ffn, shape.ffn, redraw)
        heads = ranking.heads[kv_heads, : shape.heads_per_group].sort(dim=1).values.reshape(-1)
        return Selection(kv_heads, heads, channels)

    def _resample(self, kept: torch.Tensor, width: int, size: int, redraw: bool) -> torch.Tensor:
        return resample(kept, width, size, SIMILARITY if redraw else 1.0, self._torch)


def check(shape: ModelShape) -> None:
    """Refuses mixtures of experts, which the paper does not cover.

    Raises:
        UserError: the model has experts.
    """
    if shape.experts:
        raise UserError("the paper's method is not for mixtures of experts", "Leave out --method paper.")


methods.add(
    "paper",
    Method(
        "paper",
        importance="paper",
        reconstruction="admm",
        search=search,
        default_evaluations=EVALUATIONS,
        check=check,
    ),
)
