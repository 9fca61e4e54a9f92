"""Gradients at the outputs of matrices, on tokens that the subnet samples, against autograd."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lathe.compressor.compute.workers import LocalWorkers
from lathe.compressor.model.names import DOWN_PROJ
from lathe.compressor.reconstruction.kl_passes import ROWS, KLProblem
from lathe.compressor.reconstruction.output_gradients import output_gradients
from support.tiny_problem import make_lab


@pytest.mark.usefixtures("exact_steps")
def test_they_are_those_of_the_loss_on_sampled_tokens(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    windows, last = lab.windows[:ROWS], len(lab.layers) - 1
    problem = KLProblem(lab.model, lab.layers, windows, torch.zeros(ROWS, dtype=torch.bool))
    found = list(output_gradients(problem, LocalWorkers()))[::-1]
    assert [set(grams) for grams in found] == [set(problem.projections(i)) for i in range(len(found))]

    hidden = lab.embedding[windows]
    for index, layer in enumerate(lab.layers):
        runner = lab.runner.at(index)
        if index == last:
            hidden = runner.attention(layer, hidden)
            context = runner.ffn_context(layer, hidden)
            added = runner.project(layer, DOWN_PROJ, context).detach().requires_grad_()
            hidden = runner.merge("ffn", layer, hidden, added)
        else:
            hidden = runner.layer(layer, hidden)
    normed = lab.head.normed(hidden)
    pulled = lab.head.sampled_gradient(normed.detach(), torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(normed, [added], pulled)
    rows = gradient.flatten(0, 1).double()
    wanted = (rows.T @ rows / len(rows)).float()
    torch.testing.assert_close(found[last][f"{DOWN_PROJ}.weight"], wanted, rtol=1e-3, atol=1e-7)
