"""The type that a weight is multiplied in."""

from __future__ import annotations

import torch

from lathe.compressor.compute.precision import as_factor


def test_a_weight_is_converted_where_products_are_rough_and_not_elsewhere() -> None:
    weight = torch.randn(5, 3)
    assert as_factor(weight) is weight
    with torch.autocast("cpu", torch.bfloat16):
        factor = as_factor(weight)
        assert factor.dtype == torch.bfloat16
        x = torch.randn(2, 3)
        assert torch.equal(x @ weight.T, x @ factor.T)
