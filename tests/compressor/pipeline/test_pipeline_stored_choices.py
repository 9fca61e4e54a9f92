"""Choices of `lathe plan` run side by side are what each of them is by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lathe.artefact.plan import Plan
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.stored_format import FLOAT16, INT4, INT8
from lathe.compressor.pipeline.stored_choices import Candidate, ChoiceEvaluator
from lathe.compressor.reconstruction import ProjectionPruner
from lathe.compressor.search import block_library
from lathe.compressor.search.block_library import BlockLibrary
from lathe.compressor.search.plan_evaluator import PlanEvaluator
from lathe.compressor.search.space import make_space
from support.tiny_problem import Lab


def layers_of(lab: Lab, library: BlockLibrary, plan: Plan | None) -> list[Weights]:
    """A whole decoder, as it would be if nothing else were evaluated."""
    if plan is None:
        return lab.layers
    return [
        library.block(i, "attention", (layer.query_heads, layer.kv_heads))
        | library.block(i, "ffn", layer.width)
        for i, layer in enumerate(plan)
    ]


def test_side_by_side_is_one_by_one(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, space = lab.problem(tmp_path), make_space(lab.source.shape)
    levels = [len(space.levels(kind)) for _, kind in space.blocks]
    plans = [space.plan([min(step, count - 2) for count in levels]) for step in (1, 2)]
    candidates = [
        Candidate(INT4),
        Candidate(FLOAT16, 0.8, plans[0]),
        Candidate(INT8, 0.8, plans[0]),
        Candidate(FLOAT16, 0.6, plans[1]),
    ]
    made: list[tuple[int, ...]] = []

    class Counted(ProjectionPruner):
        def __init__(self, weight: torch.Tensor, *rest: object) -> None:
            made.append(tuple(weight.shape))
            super().__init__(weight, *rest)

    library = BlockLibrary(
        lab.source.shape, lab.layers, problem.rankings, lab.statistics, problem.dampings, most_bytes=0
    )
    fitness = PlanEvaluator(problem, lambda _: library, tokens=(128,)).stage(0)
    monkeypatch.setattr(block_library, "ProjectionPruner", Counted)
    steps: list[None] = []
    found = ChoiceEvaluator(problem, library, fitness)(candidates, lambda: steps.append(None))
    assert len(made) == 2 * len(lab.layers)
    assert len(steps) == len(lab.layers)
    for candidate, choice in zip(candidates, found, strict=True):
        stored, size = candidate.form.store(layers_of(lab, library, candidate.plan), lab.source.dtype)
        hidden = lab.embedding[fitness.windows]
        for index, weights in enumerate(stored):
            hidden = lab.runner.at(index).layer(weights, hidden)
        assert (choice.form, choice.keep, choice.bytes) == (candidate.form, candidate.keep, size)
        assert choice.kl == pytest.approx(fitness.measure(hidden), rel=1e-5)
