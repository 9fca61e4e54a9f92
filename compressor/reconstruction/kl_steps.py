"""Refining the whole subnet in one pass over the text: preconditioned steps on KL(dense || subnet).

A round of `kl_refinement.py` linearises the subnet once for all of the text. Here each step reads a part of
it that no step has read before, at the weights that the steps before it left: with the gradient there and
the Kronecker factors of the first part (K-FAC, arXiv 1503.05671),

    weights + length * factors(-gradient)

The length is chosen on held-out windows, from that of the Gauss-Newton step on the first part, which is too
long as a rule, since the gradient of few tokens fits them too well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from lathe.compressor.compute.array_store import Tensors
from lathe.compressor.compute.workers import LocalWorkers, Workers
from lathe.compressor.reconstruction.conjugate_gradients import Factors, Parts, add, dot
from lathe.compressor.reconstruction.kl_passes import KLProblem
from lathe.compressor.reconstruction.kl_refinement import ModelStep

PART_TOKENS = 4096
"""The least tokens of a part, where the text has so many."""
_LENGTHS = 3
"""The most lengths of a step that are tried; each is half of the one before."""
_WORTHWHILE = 0.999
"""A step that leaves more than this share of the divergence is the last."""


def count_steps(windows: torch.Tensor, heldout: torch.Tensor) -> int:
    """Returns the most steps that a text [B, T] has parts for; `heldout` [B] is not fitted on."""
    return max(1, int((~heldout).sum()) * windows.shape[1] // PART_TOKENS)


def refine_in_steps(
    problem: KLProblem, advance: Callable[[], None] = lambda: None, workers: Workers | None = None
) -> tuple[Sequence[Tensors], float, float]:
    """Returns the layers after the steps, and KL(dense || subnet) per held-out token before and after them.

    Args:
        problem: The dense model, the subnet and the text.
        advance: Called before the first step and after every one.
        workers: Run the passes.
    """
    workers, count = workers or LocalWorkers(), count_steps(problem.windows, problem.heldout)
    heldout = ModelStep(_heldout(problem), workers)
    before = error = heldout.error(heldout.start)
    advance()
    weights, length = heldout.start, None
    for number in range(count):
        step = ModelStep(part_of(replace(problem, subnet=problem.layers(weights)), number, count), workers)
        if not number:
            factors = step.factors()
        descent = step.descent()
        direction = problem.store.keep(factors.solve(descent))
        length = length or _gauss_newton_length(step, factors, descent, direction)
        last = error
        error, length, weights = _line_search(heldout, weights, direction, length, last, first=not number)
        advance()
        if error > _WORTHWHILE * last:
            break
    return problem.layers(weights), before, error


def _heldout(problem: KLProblem) -> KLProblem:
    """Returns the problem on the held-out windows alone: one for all steps, which keeps dense's answers."""
    return replace(
        problem, windows=problem.windows[problem.heldout], heldout=problem.heldout[problem.heldout]
    )


def part_of(problem: KLProblem, number: int, count: int) -> KLProblem:
    """Returns the problem on one of so many parts of the text to fit."""
    windows = problem.windows[~problem.heldout][number::count]
    return replace(problem, windows=windows, heldout=torch.zeros(len(windows), dtype=torch.bool))


def _gauss_newton_length(step: ModelStep, factors: Factors, descent: Parts, direction: Parts) -> float:
    """Returns where the quadratic model of the divergence is least along a direction."""
    image = add(step.curvature(direction), factors.ridge(direction))
    return dot(descent, direction) / max(dot(direction, image), 1e-30)


def _line_search(
    heldout: ModelStep, start: Parts, direction: Parts, length: float, error: float, first: bool
) -> tuple[float, float, Parts]:
    """Returns (held-out error, length, weights): of the best length, or as they are where none is better.

    Args:
        heldout: Measures the error.
        start: The present weights.
        direction: The step's direction.
        length: The first length to try; it is halved until it is better than no step.
        error: The held-out error of the present weights.
        first: Whether it is halved for as long as that is better still.
    """
    best = (error, length, start)
    for _ in range(_LENGTHS):
        weights = heldout.store.keep(add(start, direction, length))
        tried = heldout.error(weights)
        better = tried < best[0]
        if better:
            best = (tried, length, weights)
        if best[0] < error and not (first and better):
            break
        length /= 2
    return best
