"""Whole decoders with one-bit weights, by the pass that rounds block after block."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lathe.compressor.model.rounded_tensors import Rounded, dequantized
from lathe.compressor.reconstruction.one_bit.block import OneBitBlocks
from lathe.compressor.reconstruction.one_bit.levels import sign
from lathe.compressor.reconstruction.one_bit.registry import binarizations
from lathe.compressor.reconstruction.rounding_pass import RoundingPass
from support.tiny_llama import PLANS
from support.tiny_problem import Lab, make_lab


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return make_lab(tmp_path_factory.mktemp("biased") / "tiny", attention_bias=True, mlp_bias=True)


def by_pass(lab: Lab, method: OneBitBlocks) -> list[dict[str, torch.Tensor]]:
    rounding = RoundingPass(lab.model, PLANS["dense"], lab.windows, lab.heldout, method=lambda _: method)
    made: list[Rounded] = []
    for index in range(len(lab.layers)):
        made.append(rounding.layer(index, made.__getitem__))
    return [dequantized(layer) for layer in made]


def error(lab: Lab, layers: list[dict[str, torch.Tensor]]) -> float:
    """How far the stream ends from the dense one, on the held-out windows."""
    dense = subnet = lab.embedded[lab.heldout]
    for index, layer in enumerate(layers):
        dense = lab.runner.layer(lab.layers[index], dense)
        subnet = lab.runner.layer({**lab.layers[index], **layer}, subnet)
    return float((subnet - dense).norm())


@torch.no_grad()
@pytest.mark.parametrize("name", ["arb", "billm", "hbllm"])
@pytest.mark.parametrize("which", ["lab", "biased"])
def test_the_stream_ends_nearer_than_by_signs_alone(
    which: str, name: str, request: pytest.FixtureRequest
) -> None:
    lab: Lab = request.getfixturevalue(which)
    method = OneBitBlocks(binarizations.get(name), torch.bfloat16)
    made = by_pass(lab, method)
    matrices = {n for kind in ("attention", "ffn") for n in lab.runner.projections(kind)}
    for layer in made:
        assert {n for n in layer if n.endswith("weight")} == matrices
        assert all(torch.equal(layer[n], layer[n].bfloat16().float()) for n in matrices)
    assert method.storage.weights == sum(layer[n].numel() for layer in lab.layers for n in matrices)
    assert len(method.errors) == len(made) * len(matrices)
    assert 0 < min(method.errors) <= max(method.errors) < 1
    signs = [
        {n: sign(w) * w.abs().mean(1, keepdim=True) for n, w in layer.items() if n in matrices}
        for layer in lab.layers
    ]
    assert error(lab, made) < 0.75 * error(lab, signs)


def test_dropped_blocks_are_left(lab: Lab) -> None:
    layers = lab.first_units(PLANS["groups"])
    rounding = RoundingPass(
        replace(lab.model, layers=layers),
        PLANS["groups"],
        lab.windows,
        lab.heldout,
        method=lambda _: OneBitBlocks(binarizations.get("billm")),
    )
    made: list[Rounded] = []
    for index, layer in enumerate(layers):
        made.append(rounding.layer(index, made.__getitem__))
        assert set(made[-1]) == {n for n, w in layer.items() if w.dim() == 2}
