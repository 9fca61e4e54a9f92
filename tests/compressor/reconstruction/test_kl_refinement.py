"""The round over the whole subnet: its derivatives against autograd through transformers, what it keeps."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from lathe.compressor.compute import precision
from lathe.compressor.compute.workers import LocalWorkers
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.reconstruction.kl_passes import KLProblem
from lathe.compressor.reconstruction.kl_refinement import ModelStep, refine_model
from support.tiny_llama import PLANS, reference, tokens
from support.tiny_problem import Lab, make_lab

Layers = list[dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return make_lab(tmp_path_factory.mktemp("dense"), attention_bias=True)


def text(lab: Lab, subnet: Sequence[Weights]) -> KLProblem:
    return KLProblem(lab.model, subnet, lab.windows, lab.heldout)


def step(lab: Lab, subnet: Layers) -> ModelStep:
    return ModelStep(text(lab, subnet), LocalWorkers())


def moved(subnet: Layers, seed: int) -> Layers:
    """The same layers, every weight a little elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            n: v + 0.1 * v.std() * torch.randn(v.shape, generator=generator) if v.dim() == 2 else v
            for n, v in w.items()
        }
        for w in subnet
    ]


def named(subnet: Sequence[Weights]) -> dict[str, torch.Tensor]:
    return {f"model.layers.{i}.{n}": v for i, layer in enumerate(subnet) for n, v in layer.items()}


@pytest.mark.usefixtures("exact_steps")
def test_the_descent_is_the_gradient_of_the_divergence(lab: Lab) -> None:
    subnet, fit = moved(lab.layers, 0), lab.windows[~lab.heldout]
    model = reference(lab.source, PLANS["dense"])
    found = step(lab, subnet).descent()
    leaves = [{n: v.clone().requires_grad_() for n, v in layer.items()} for layer in subnet]
    with torch.no_grad():
        dense = model(fit).logits.log_softmax(-1)
    mine = functional_call(model, named(leaves), (fit,)).logits.log_softmax(-1)
    (dense.exp() * (dense - mine)).sum(-1).mean().backward()
    for part, leaf in zip(found, leaves, strict=True):
        for name, value in part.items():
            torch.testing.assert_close(value, -leaf[name].grad, rtol=1e-3, atol=1e-6)


@pytest.mark.usefixtures("exact_steps")
def test_the_curvature_is_the_gauss_newton_matrix(lab: Lab) -> None:
    subnet = moved(lab.layers, 1)
    problem = step(lab, subnet)
    generator = torch.Generator().manual_seed(2)
    start = [dict(part) for part in problem.start]
    direction = [{n: torch.randn(v.shape, generator=generator) for n, v in part.items()} for part in start]
    used, model = lab.windows[~lab.heldout], reference(lab.source, PLANS["dense"])

    def logits(weights: Layers) -> torch.Tensor:
        return functional_call(model, named(text(lab, subnet).layers(weights)), (used,)).logits

    with sdpa_kernel(SDPBackend.MATH):
        y, pushed = torch.func.jvp(logits, (start,), (direction,))
        q = y.softmax(-1)
        hessian = q * (pushed - (q * pushed).sum(-1, keepdim=True)) / used.numel()
        (expected,) = torch.func.vjp(logits, start)[1](hessian)
    found = problem.curvature(direction)
    for part, wanted in zip(found, expected, strict=True):
        for name, value in wanted.items():
            assert (part[name] - value).norm() < 0.02 * value.norm()


@pytest.mark.usefixtures("bfloat16_products")
def test_products_in_bfloat16_give_nearly_the_same_gradient(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    subnet = moved(lab.layers, 0)
    found = step(lab, subnet).descent()
    monkeypatch.setattr(precision, "has_bfloat16", lambda _device: False)
    for part, exact in zip(found, step(lab, subnet).descent(), strict=True):
        for name, value in part.items():
            assert (value - exact[name]).norm() < 0.05 * exact[name].norm()


@pytest.mark.parametrize("name", ["mixed", "groups", "no ffn last"])
def test_the_subnet_comes_nearer_to_dense_on_text_it_was_not_fitted_on(lab: Lab, name: str) -> None:
    subnet, windows, heldout = lab.first_units(PLANS[name]), tokens(96, 64), torch.arange(96) >= 84
    layers, before, after = refine_model(KLProblem(lab.model, subnet, windows, heldout))
    assert after < 0.95 * before
    again = ModelStep(KLProblem(lab.model, layers, windows, heldout), LocalWorkers())
    assert again.error(again.start) == pytest.approx(after, rel=1e-4)
    assert [{n: v.shape for n, v in w.items()} for w in layers] == [
        {n: v.shape for n, v in w.items()} for w in subnet
    ]
    for mine, was in zip(layers, subnet, strict=True):
        changed = {n for n in was if not torch.equal(mine[n], was[n])}
        assert changed == {n for n in was if was[n].dim() == 2}
        assert not any(v.requires_grad for v in mine.values())


def test_a_subnet_that_is_right_stays_as_it_is(lab: Lab) -> None:
    dense: list[Weights] = lab.layers
    layers, before, after = refine_model(text(lab, dense))
    assert (before, after) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))
    for mine, was in zip(layers, dense, strict=True):
        for name, value in was.items():
            torch.testing.assert_close(mine[name], value, rtol=0, atol=1e-4)


def test_the_same_again_is_the_same(lab: Lab) -> None:
    subnet = lab.first_units(PLANS["groups"])
    first, again = (refine_model(text(lab, subnet))[0] for _ in range(2))
    assert all(torch.equal(a[n], b[n]) for a, b in zip(first, again, strict=True) for n in a)
