"""Ablations take one part out of the default method and leave the rest."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from benchmarks.quality.variants import ABLATIONS, WithIntercept
from lathe.compressor.reconstruction.registry import ReconstructionTask, reconstructions
from lathe.compressor.search.method import methods
from support.tiny_problem import make_lab


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_differs_from_the_default_in_one_thing_and_keeps_the_budget(name: str, tmp_path: Path) -> None:
    default, method = asdict(methods.get("lathe")), asdict(methods.get(name))
    assert len([k for k in default if k != "name" and default[k] != method[k]]) <= 2
    lab = make_lab(tmp_path / "dense")
    found = methods.get(name).search(lab.problem(tmp_path, importance=method["importance"], evaluations=6))
    assert lab.keep(0.6).allows(found.plan)


def test_the_intercept_is_solved_for_and_lessens_the_error(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "dense")
    problem = lab.problem(tmp_path)
    found = methods.get("lathe-uniform").search(problem)
    job = ReconstructionTask(
        lab.source.shape,
        lab.model,
        found.selections,
        lab.statistics,
        problem.dampings,
        lab.windows,
        lab.heldout,
    )
    layer = reconstructions.get("gauss-newton-intercept")(job)(0, lambda _: None)
    assert layer["mlp.down_proj.bias"].abs().max() > 0
    assert torch.isfinite(layer["self_attn.o_proj.bias"]).all()
    assert "mlp.down_proj.bias" in WithIntercept(**vars(job)).pruned(0, lambda w, _g, kept, _d: w[:, kept])[1]
