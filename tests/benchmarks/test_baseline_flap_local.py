"""FLAP's mask with blocks trained one at a time."""

from __future__ import annotations

import pytest
import torch

from benchmarks.quality.baselines import flap_local
from benchmarks.quality.baselines.flap import mask
from benchmarks.quality.setting import Setting, baselines


def test_blocks_come_nearer_to_the_dense_output_on_the_same_inputs(setting: Setting) -> None:
    found = mask(setting, 0.6)
    ends = []
    for job in flap_local.jobs(setting, found.layers):
        run = setting.runner.attention if job.kind == "attention" else setting.runner.ffn
        expected = run(setting.layers[job.index], job.heldout[0]).detach()
        torch.testing.assert_close(job.heldout[1], expected)
        before = float((run(job.start, job.heldout[0]) - expected).square().mean())
        assert job.error(job.start) == pytest.approx(before, rel=1e-4)
        mended, error = job.train(1e-3)
        assert error == pytest.approx(
            float((run(mended, job.heldout[0]) - expected).square().mean()), rel=1e-4
        )
        assert error <= before
        ends.append(error < before)
    assert len(ends) == 2 * setting.shape.num_layers
    assert sum(ends) > len(ends) / 2


def test_a_rate_that_harms_leaves_flap_as_it_was(setting: Setting) -> None:
    job = next(flap_local.jobs(setting, mask(setting, 0.5).layers))
    mended, error = job.train(10.0)
    assert mended is job.start
    assert error == job.error(job.start)


def test_mask_and_widths_are_flaps_and_training_is_said(setting: Setting) -> None:
    flap, found = (baselines.get(name)(setting, 0.5) for name in ("flap", "flap-local"))
    assert (found.plan, found.parameters) == (flap.plan, flap.parameters)
    assert found.facts.items() >= flap.facts.items()
    assert found.facts["learning_rate"] in flap_local._RATES
    assert found.facts["blocks_trained"] > 0
    assert found.facts["trained"] == "weights, block by block"
    text = setting.heldout
    assert setting.head.loss(text, found.hidden(text)) != setting.head.loss(text, flap.hidden(text))
