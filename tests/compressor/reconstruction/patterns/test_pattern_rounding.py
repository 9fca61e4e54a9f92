"""Zeros that stay zeros: in rounded matrices, in blocks solved again, and in a subnet that is refined."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.pattern import Pattern
from lathe.compressor.model.rounded_tensors import Rounded, dequantized
from lathe.compressor.model.rounding import quantize_in_groups
from lathe.compressor.reconstruction.compensated_rounding import ColumnRounding
from lathe.compressor.reconstruction.kept_weights import squared_errors
from lathe.compressor.reconstruction.kl_passes import KLProblem
from lathe.compressor.reconstruction.kl_refinement import refine_model
from lathe.compressor.reconstruction.kl_steps import refine_in_steps
from lathe.compressor.reconstruction.patterns.block import PatternBlocks
from lathe.compressor.reconstruction.patterns.choice import highest
from lathe.compressor.reconstruction.patterns.registry import pattern_methods
from lathe.compressor.reconstruction.rounding_pass import RoundingPass
from support.tiny_llama import tokens
from support.tiny_problem import Lab

PATTERN = Pattern(2, 4)
NAMES = [f"self_attn.{name}_proj.weight" for name in "qkvo"]
NAMES += [f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")]


def pruned(lab: Lab, method: str = "joint") -> list[Weights]:
    blocks = PatternBlocks(PATTERN, pattern_methods.get(method))
    text = RoundingPass(
        lab.model, lab.source.shape.dense_plan, lab.windows, lab.heldout, method=lambda _bits: blocks
    )
    made: list[Rounded] = []
    for index in range(len(lab.layers)):
        made.append(text.layer(index, made.__getitem__))
    return [text.served(index, layer) for index, layer in enumerate(made)]


@pytest.fixture(scope="module")
def layers(lab: Lab) -> list[Weights]:
    with torch.no_grad():
        return pruned(lab)


def zeros(layers: list[Weights]) -> list[torch.Tensor]:
    return [layer[name] == 0 for layer in layers for name in NAMES]


@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_of_a_matrix_stay_and_the_others_make_up_for_rounding(bits: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, inputs = (torch.randn(n, 72, generator=generator) for n in (40, 300))
    inputs = (inputs + inputs.roll(1, 1)).double()
    gram = inputs.T @ inputs / len(inputs)
    weight = weight * highest(weight.abs(), PATTERN)
    found = ColumnRounding(gram, bits, 32, keep_zeros=True)(weight).values
    assert not found[weight == 0].any()
    assert ColumnRounding(gram, bits, 32)(weight).values[weight == 0].any()
    nearest = quantize_in_groups(weight, bits, 32).values
    assert squared_errors(found, weight, gram).sum() < squared_errors(nearest, weight, gram).sum()


def test_every_matrix_of_the_layers_has_the_pattern(lab: Lab, layers: list[Weights]) -> None:
    for layer, dense in zip(layers, lab.layers, strict=True):
        assert set(layer) == set(dense)
        for name in NAMES:
            assert ((layer[name].unflatten(1, (-1, 4)) != 0).sum(-1) == 2).all()


def error(lab: Lab, layers: list[Weights]) -> float:
    """How far the stream ends from the dense one, on held-out windows."""
    dense = subnet = lab.embedded[lab.heldout]
    for index, layer in enumerate(layers):
        dense, subnet = lab.runner.layer(lab.layers[index], dense), lab.runner.layer(layer, subnet)
    return float((subnet - dense).norm())


@torch.no_grad()
def test_joint_removal_ends_nearer_to_the_dense_stream(lab: Lab, layers: list[Weights]) -> None:
    assert error(lab, layers) < 0.9 * error(lab, pruned(lab, "sparsegpt"))


@torch.no_grad()
@pytest.mark.parametrize("bits", [4, 8])
def test_rounded_blocks_keep_their_zeros(lab: Lab, layers: list[Weights], bits: int) -> None:
    plan = lab.source.shape.dense_plan.in_bits(bits, 0)
    model = replace(lab.model, layers=layers)
    text = RoundingPass(model, plan, lab.windows, lab.heldout, keep_zeros=True)
    made: list[Rounded] = []
    for index in range(len(layers)):
        made.append(text.layer(index, made.__getitem__))
    found = [{**layer, **dequantized(own)} for layer, own in zip(layers, made, strict=True)]
    for mine, was in zip(zeros(found), zeros(layers), strict=True):
        assert mine[was].all()
    assert error(lab, found) < (1.05 if bits == 8 else 2) * error(lab, layers)


@pytest.mark.parametrize("refine", [refine_in_steps, refine_model])
def test_a_subnet_is_refined_between_its_zeros(lab: Lab, refine: object) -> None:
    assert callable(refine)
    start = [
        {n: w * highest(w.abs(), PATTERN) if n in NAMES else w for n, w in layer.items()}
        for layer in lab.layers
    ]
    text = KLProblem(lab.model, start, tokens(16, 16), torch.arange(16) >= 12, keep_zeros=True)
    found, before, after = refine(text)
    assert after < 0.97 * before
    refined = [found[index] for index in range(len(start))]
    for mine, was in zip(zeros(refined), zeros(start), strict=True):
        assert mine.equal(was)
