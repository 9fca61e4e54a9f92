"""Derivatives at the head against automatic ones, in rough products too, and what tokens are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from lathe.compressor.compute.precision import fast_products
from lathe.compressor.model.lm_head import LMHead, _drawn

CPU = torch.device("cpu")


@dataclass
class Identity:
    """A runner whose final norm changes nothing."""

    def final_norm(self, _norm: Any, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def make(cap: float | None) -> tuple[LMHead, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A head of 97 tokens, its weight, and inputs [2, 5, 16] of dense and subnet."""
    torch.manual_seed(0)
    runner: Any = Identity()
    weight = torch.randn(97, 16)
    return LMHead(runner, {}, weight, cap), weight, torch.randn(2, 5, 16), torch.randn(2, 5, 16)


def logits(weight: torch.Tensor, hidden: torch.Tensor, cap: float | None) -> torch.Tensor:
    plain = hidden @ weight.T
    return plain if cap is None else torch.tanh(plain / cap) * cap


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("rough", [False, True])
def test_the_difference_is_minus_the_gradient_of_the_divergence(cap: float | None, rough: bool) -> None:
    head, weight, dense, subnet = make(cap)
    x = subnet.clone().requires_grad_()
    p = torch.log_softmax(logits(weight, dense, cap), -1)
    (p.exp() * (p - torch.log_softmax(logits(weight, x, cap), -1))).sum().backward()
    assert x.grad is not None
    with fast_products(CPU) if rough else torch.no_grad():
        found = head.difference(dense, subnet).float()
    off = (found + x.grad).norm() / x.grad.norm()
    assert off < (0.03 if rough else 1e-5)


@pytest.mark.parametrize("cap", [None, 3.0])
def test_the_curvature_is_that_of_the_divergence_at_equal_distributions(cap: float | None) -> None:
    head, weight, _, subnet = make(cap)
    change, length = torch.randn(2, 5, 16), 1e-3
    p = torch.log_softmax(logits(weight, subnet, cap), -1)
    x = (subnet + length * change).requires_grad_()
    (p.exp() * (p - torch.log_softmax(logits(weight, x, cap), -1))).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(head.curvature(subnet, change), x.grad / length, rtol=0.02, atol=0.02)


def test_tokens_are_drawn_as_often_as_they_are_likely_and_impossible_ones_never() -> None:
    q = torch.tensor([0.0, 0.1, 0.0, 0.6, 0.3, 0.0]).expand(1, 30_000, 6).contiguous()
    drawn = _drawn(q, torch.Generator().manual_seed(0))
    assert drawn.shape == (1, 30_000, 1)
    shares = torch.bincount(drawn.flatten(), minlength=6) / 30_000
    torch.testing.assert_close(shares, q[0, 0], rtol=0, atol=0.01)
    assert shares[q[0, 0] == 0].sum() == 0


def test_probabilities_are_not_rounded_where_products_are() -> None:
    head, _, dense, _ = make(None)
    with fast_products(CPU):
        q, _ = head._shares(dense, torch.randn(97, 16))
    assert q.dtype == torch.float32
    torch.testing.assert_close(q.sum(-1), torch.ones(2, 5), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cap", [None, 3.0])
def test_the_loss_and_its_gradient_are_those_of_cross_entropy(cap: float | None) -> None:
    head, weight, _, hidden = make(cap)
    tokens, x = torch.randint(97, (2, 5)), hidden.clone().requires_grad_()
    expected = torch.nn.functional.cross_entropy(
        logits(weight, x, cap)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
    )
    expected.backward()
    loss, gradient = head.loss_gradient(tokens, hidden)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.testing.assert_close(gradient, x.grad)
