"""The types that factors are multiplied in."""

from __future__ import annotations

import pytest
import torch

from lathe.compressor.compute import precision
from lathe.compressor.compute.device import CPU
from lathe.compressor.compute.precision import as_factor, rounded_factors, rounds_factors
from lathe.compressor.statistics.gram import Gram


def test_a_weight_is_converted_where_products_are_rough_and_not_elsewhere() -> None:
    weight = torch.randn(5, 3)
    assert as_factor(weight) is weight
    with torch.autocast("cpu", torch.bfloat16):
        factor = as_factor(weight)
        assert factor.dtype == torch.bfloat16
        x = torch.randn(2, 3)
        assert torch.equal(x @ weight.T, x @ factor.T)


def test_a_gram_matrix_of_rounded_factors_is_summed_in_float32() -> None:
    x = torch.randn(4096, 128, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, 128)
    with rounded_factors(CPU):
        rounded = _gram(x)
    of_rounded_rows = x.bfloat16().double() if rounds_factors(CPU) else x.double()
    torch.testing.assert_close(rounded, of_rounded_rows.T @ of_rounded_rows / len(x), rtol=1e-4, atol=1e-5)
    size = rounded.diagonal().sqrt()
    assert ((rounded - _gram(x)).abs() <= 1e-3 * size * size[:, None]).all()
    assert torch.linalg.eigvalsh(rounded / (size * size[:, None])).min() > 0


def test_factors_are_as_they_are_outside_and_where_nothing_may_be_rounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.randn(256, 64)
    exact = x.T @ x
    with rounded_factors(CPU, bfloat16=False):
        assert torch.equal(x.T @ x, exact)
    with pytest.raises(RuntimeError), rounded_factors(CPU):
        raise RuntimeError
    assert torch.equal(x.T @ x, exact)
    for capabilities in ({"avx512_bf16": True}, {}):
        monkeypatch.setattr(precision, "_capabilities", lambda found=capabilities: found)
        assert not rounds_factors(CPU)
        with rounded_factors(CPU):
            assert torch.equal(x.T @ x, exact)


def _gram(x: torch.Tensor) -> torch.Tensor:
    gram = Gram(x.shape[1])
    for part in x.split(1024):
        gram.add_batch(part)
    return gram.finalize()
