"""Evaluates plans and single blocks, reconstructed in closed form, at every stage of a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from lathe.artefact.plan import Plan
from lathe.compressor.calibration.tokens import cut, evenly_spaced
from lathe.compressor.search.block_library import MOST_BYTES, BlockLibrary
from lathe.compressor.search.fitness import Block, Fitness
from lathe.compressor.search.method import Problem

_STAGE_TOKENS = (2048, 8192)
_LENGTH = 256


def make_block_library(problem: Problem) -> BlockLibrary:
    """Returns the library of pruned blocks after the closed-form reconstruction."""
    return BlockLibrary(
        problem.source.shape,
        problem.layers,
        problem.rankings,
        problem.statistics,
        problem.dampings,
        0 if problem.store.bounded else MOST_BYTES,
    )


class PlanEvaluator:
    """Evaluates the plans of a problem at every stage of a search.

    What it needs is made on first use, so that it may travel to workers.

    Args:
        problem: The problem.
        library: Makes the blocks of candidates.
        fitness: Evaluates plans.
        tokens: The number of tokens of each stage.
        length: The most tokens of a window.
    """

    def __init__(
        self,
        problem: Problem,
        library: Callable[[Problem], BlockLibrary] = make_block_library,
        fitness: type[Fitness] = Fitness,
        tokens: Sequence[int] = _STAGE_TOKENS,
        length: int = _LENGTH,
    ) -> None:
        self._problem, self._library, self._fitness = problem, library, fitness
        self._tokens, self._length = tokens, length
        self._stages: dict[int, Fitness] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Sends the arguments alone."""
        return PlanEvaluator, (self._problem, self._library, self._fitness, self._tokens, self._length)

    def sensitivities(self, asked: tuple[int, list[int]]) -> dict[int, float]:
        """Returns KL by level for (block, levels)."""
        position, levels = asked
        return dict(zip(levels, self.stage(0).sensitivities(position, levels), strict=True))

    def evaluate(self, asked: tuple[Plan, int]) -> float:
        """Returns the fitness for (plan, number of the stage)."""
        plan, number = asked
        return self.stage(number).evaluate(plan)

    def stage(self, number: int) -> Fitness:
        """Returns the evaluator of a stage, on as many tokens as the stage has.

        Its windows are spread over the text: many short ones evaluate better than few long ones.
        """
        if number not in self._stages:
            self._stages[number] = self._new_stage(self._tokens[number])
        return self._stages[number]

    @cached_property
    def _blocks(self) -> Block:
        return self._library(self._problem).block

    def _new_stage(self, tokens: int) -> Fitness:
        problem = self._problem
        windows = cut(problem.windows, self._length)
        windows = evenly_spaced(windows, max(1, tokens // windows.shape[1]))
        return self._fitness(
            problem.runner,
            problem.head,
            problem.space,
            windows,
            problem.embedding,
            lambda layer, _kind, _level: problem.layers[layer],
            self._blocks,
            problem.store,
        )
