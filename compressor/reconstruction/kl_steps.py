"""Refining the whole subnet by a few preconditioned steps on KL(dense || subnet).

A round of `kl_refinement.py` linearises the subnet once for all of the text. Here each step reads a part of
it that no step has read before, at the weights that the steps before it left: with the gradient there, the
Kronecker factors of the first part (K-FAC, arXiv 1503.05671) and momentum,

    direction = factors(-gradient) + momentum * direction before,    weights + length * direction

The length is chosen on held-out windows with about as many tokens as a part, from that of the Gauss-Newton
step on the first part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from lathe.compressor.compute.array_store import Tensors
from lathe.compressor.compute.precision import rounded_factors
from lathe.compressor.compute.workers import LocalWorkers, Workers
from lathe.compressor.reconstruction.conjugate_gradients import Factors, Parts, add, dot
from lathe.compressor.reconstruction.kl_passes import KLProblem
from lathe.compressor.reconstruction.kl_refinement import ModelStep

PART_TOKENS = 2048
"""The tokens of a part, about."""
_STEPS = 5
MOST_TOKENS = _STEPS * PART_TOKENS
"""About the most tokens that all steps read together."""
_MOMENTUM = 0.6
_CURVATURE = 2
"""One of so many windows of the first part gives the length of the first step."""
_LENGTHS = 3
"""The most lengths of a step that are tried; each is half of the one before."""
_WORTHWHILE = 0.999
"""A step that leaves more than this share of the divergence is the last."""


def count_steps(windows: torch.Tensor, heldout: torch.Tensor) -> int:
    """Returns the most steps for a text [B, T]; its windows `heldout` [B] are not fitted on."""
    return min(_STEPS, _count_parts(windows, heldout))


def refine_in_steps(
    problem: KLProblem, advance: Callable[[], None] = lambda: None, workers: Workers | None = None
) -> tuple[Sequence[Tensors], float, float]:
    """Returns the layers after the steps, and KL(dense || subnet) before and after them.

    Both are per token of the held-out windows that lengths are chosen on.

    Args:
        problem: The dense model, the subnet and the text.
        advance: Called before the first step and after every one.
        workers: Run the passes.
    """
    workers, parts = workers or LocalWorkers(), _count_parts(problem.windows, problem.heldout)
    heldout = ModelStep(problem.some(_judging(problem)), workers)
    before = error = heldout.error(heldout.start)
    advance()
    weights, length, direction = heldout.start, None, None
    for number in range(min(_STEPS, parts)):
        part = part_of(replace(problem, subnet=problem.layers(weights)), number, parts)
        step = ModelStep(part, workers)
        if not number:
            factors = step.factors()
        descent = step.descent()
        with rounded_factors(problem.store.device):
            solved = factors.solve(descent)
            direction = problem.store.keep(add(solved, direction, _MOMENTUM) if direction else solved)
        length = length or _gauss_newton_length(part, workers, factors, descent, direction)
        last = error
        error, length, weights = _line_search(heldout, weights, direction, length, last)
        advance()
        if error > _WORTHWHILE * last:
            break
    return problem.layers(weights), before, error


def _count_parts(windows: torch.Tensor, heldout: torch.Tensor) -> int:
    return max(1, int((~heldout).sum()) * windows.shape[1] // PART_TOKENS)


def _judging(problem: KLProblem) -> torch.Tensor:
    """Returns the indices of the held-out windows that lengths are chosen on, from all over the text."""
    indices = torch.nonzero(problem.heldout)[:, 0]
    return indices[:: max(1, len(indices) * problem.windows.shape[1] // PART_TOKENS)]


def part_of(problem: KLProblem, number: int, count: int) -> KLProblem:
    """Returns the problem on one of so many parts of the text to fit."""
    return problem.some(torch.nonzero(~problem.heldout)[number::count, 0])


def _gauss_newton_length(
    part: KLProblem, workers: Workers, factors: Factors, descent: Parts, direction: Parts
) -> float:
    """Returns where the quadratic model of the divergence is least along a direction."""
    some = part.some(torch.arange(0, len(part.windows), _CURVATURE))
    image = add(ModelStep(some, workers).curvature(direction), factors.ridge(direction))
    return dot(descent, direction) / max(dot(direction, image), 1e-30)


def _line_search(
    heldout: ModelStep, start: Parts, direction: Parts, length: float, error: float
) -> tuple[float, float, Parts]:
    """Returns (held-out error, length, weights): of the first length that is better, or as they are.

    Args:
        heldout: Measures the error.
        start: The present weights.
        direction: The step's direction.
        length: The first length to try; it is halved until it is better than no step.
        error: The held-out error of the present weights.
    """
    for _ in range(_LENGTHS):
        weights = heldout.store.keep(add(start, direction, length))
        tried = heldout.error(weights)
        if tried < error:
            return tried, length, weights
        length /= 2
    return error, length, start
