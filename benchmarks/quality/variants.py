"""The default method with one part taken out or another in its place, under names of their own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from lathe.artefact.plan import Plan
from lathe.compressor.model.names import DOWN_PROJ, O_PROJ
from lathe.compressor.model.pruning import select_plan
from lathe.compressor.reconstruction.registry import (
    Finished,
    LayerReconstruction,
    ReconstructionTask,
    SolveProjection,
    reconstructions,
)
from lathe.compressor.search.block_library import BlockLibrary
from lathe.compressor.search.evolution import Moves, evolve
from lathe.compressor.search.fitness import Fitness
from lathe.compressor.search.method import Problem, SearchResult, methods
from lathe.compressor.search.methods.lathe import search
from lathe.compressor.search.methods.paper import Breeder
from lathe.compressor.search.plan_evaluator import PlanEvaluator

_LATHE = methods.get("lathe")
_EVOLUTION = 258


def variant(name: str, **changes: Any) -> None:
    methods.add(name, replace(_LATHE, name=name, **changes))


def uniform(problem: Problem) -> SearchResult:
    """No search: the same widths in every layer, the largest that fit, heads and channels kept alike."""
    candidate = Breeder(problem).uniform()
    return SearchResult(candidate.plan, list(candidate.selections), float("nan"), 0)


def evolution(problem: Problem) -> SearchResult:
    """Evolution alone: from uniform widths, blocks to change drawn without a sensitivity table."""
    evaluator = PlanEvaluator(problem).stage(0)
    flat = np.empty(2 * problem.space.layers, dtype=object)
    for block, (_, kind) in enumerate(problem.space.blocks):
        flat[block] = np.zeros(len(problem.space.levels(kind)))
    moves = Moves(problem.space, problem.constraints, flat, random.Random(problem.seed))
    count = 0

    def evaluate(plans: Sequence[Plan], _stage: int) -> list[float]:
        nonlocal count
        count += len(plans)
        return [evaluator.evaluate(plan) for plan in plans]

    start = Breeder(problem).uniform().plan
    (best, plan), *_ = evolve([start], moves, evaluate, problem.evaluations, lambda _: None)
    selections = select_plan(problem.rankings, plan)
    return SearchResult(plan, selections, best, count)


def make_pruned_library(problem: Problem) -> BlockLibrary:
    """Returns the library of pruned blocks as they are: no reconstruction in the loop."""
    return BlockLibrary(problem.source.shape, problem.layers, problem.rankings)


class ByReplays(Fitness):
    """Measures every sensitivity through all the layers above."""

    sensitivities = Fitness.replayed


class ByLoss(ByReplays):
    """Evaluates by the text's own loss, as perplexity does."""

    def measure(self, hidden_BTD: torch.Tensor) -> float:
        return self.head.loss(self.windows, hidden_BTD)


class ByRejection(ByReplays):
    """Evaluates by how often the dense model would reject what the subnet drafts."""

    def measure(self, hidden_BTD: torch.Tensor) -> float:
        return 1 - self.head.acceptance(self._targets, hidden_BTD)


@dataclass(frozen=True)
class WithIntercept(ReconstructionTask):
    """Gives every pruned block an output bias to be solved for."""

    def pruned(self, index: int, solve: SolveProjection, rescale: bool = False) -> tuple[Finished, Finished]:
        blocks = super().pruned(index, solve, rescale)
        for block, name in zip(blocks, (O_PROJ, DOWN_PROJ), strict=True):
            if block:
                block.setdefault(f"{name}.bias", torch.zeros(self.shape.hidden_size))
        return blocks


@reconstructions.register("gauss-newton-intercept")
def intercept(job: ReconstructionTask) -> LayerReconstruction:
    return reconstructions.get("gauss-newton")(WithIntercept(**vars(job)))


variant("lathe-uniform", search=uniform)
variant("lathe-evolution", search=evolution, default_evaluations=_EVOLUTION)
variant("lathe-plus-evolution", default_evaluations=200)
variant("lathe-paper-order", importance="paper")
variant("lathe-no-loop", search=partial(search, library=make_pruned_library))
variant("lathe-replays", search=partial(search, fitness=ByReplays))
variant("lathe-perplexity", search=partial(search, fitness=ByLoss))
variant("lathe-acceptance", search=partial(search, fitness=ByRejection))
variant("lathe-no-reform", reconstruction="none", whole_rounds=0)
variant("lathe-no-accumulation", reconstruction="closed-form", whole_rounds=0)
variant("lathe-output-only", reconstruction="sequential", whole_rounds=0)
variant("lathe-blocks-only", whole_rounds=0)
variant("lathe-whole-only", reconstruction="sequential")
variant("lathe-intercept", reconstruction="gauss-newton-intercept")
ABLATIONS = [name for name in methods.known() if name.startswith("lathe-")]
