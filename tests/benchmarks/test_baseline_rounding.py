"""int8 and int4: all parameters, fewer bytes, the better the more bits."""

from __future__ import annotations

import pytest

from benchmarks.quality.score import Judge
from benchmarks.quality.setting import Setting, baselines
from lathe.compressor.model.rounding import quantize_in_groups


def test_bytes_and_parameters_are_counted(setting: Setting) -> None:
    dense = setting.dense_parameters
    int8, int4 = (baselines.get(name)(setting, 0.5) for name in ("int8", "int4"))
    assert int8.parameters == int4.parameters == dense
    assert int8.weight_bytes is not None
    assert int4.weight_bytes is not None
    norms = 4 * 2 * 64
    rows = 4 * (128 + 64 + 64 + 64 + 96 + 96 + 64)
    matrices = dense - norms
    assert int8.weight_bytes == matrices + 2 * rows + 2 * norms
    assert int4.weight_bytes == matrices * (4 + 16 / 32) / 8 + 2 * norms


def test_more_bits_lose_less(setting: Setting) -> None:
    int8, int4 = (
        Judge(setting, setting.heldout).score(baselines.get(name)(setting, 0.5).hidden)
        for name in ("int8", "int4")
    )
    assert 0 < int8.kl < 0.1 * int4.kl
    assert int8.agreement > int4.agreement


def test_every_keep_has_the_same_rows_and_all_matrices_are_rounded(setting: Setting) -> None:
    small, large = (baselines.get("int4")(setting, keep) for keep in (0.1, 0.9))
    assert small.logprobs(setting.heldout).equal(large.logprobs(setting.heldout))
    assert small.weight_bytes == large.weight_bytes
    layers = [
        {n: quantize_in_groups(w, 4, 32).values if w.dim() == 2 else w for n, w in layer.items()}
        for layer in setting.layers
    ]
    expected = setting.subnet(layers).logprobs(setting.heldout)
    assert small.logprobs(setting.heldout).numpy() == pytest.approx(expected.numpy())


@pytest.mark.parametrize(("keep", "form"), [(0.9, "int8, groups of 32"), (0.45, "int6, groups of 32")])
def test_rounded_has_the_most_bits_that_the_bytes_of_a_keep_hold(
    setting: Setting, keep: float, form: str
) -> None:
    found, whole = baselines.get("rounded")(setting, keep), 2 * setting.dense_parameters
    assert found.parameters == setting.dense_parameters
    assert found.weight_bytes is not None
    assert found.weight_bytes <= keep * whole
    assert found.facts["format"] == form
