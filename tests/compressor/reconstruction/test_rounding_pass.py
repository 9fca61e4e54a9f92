"""The rounding pass against a plain loop over whole arrays, and what is served of a layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lathe.artefact.plan import BLOCK_KINDS, BlockKind, Plan
from lathe.compressor.calibration.tokens import token_windows
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.model.block_runner import BlockRunner
from lathe.compressor.model.checkpoint import open_checkpoint
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.rounded_tensors import Rounded, dequantized, from_tensors, to_tensors
from lathe.compressor.model.rounding import QuantizedMatrix, groups_for, quantize_matrix
from lathe.compressor.model.stored_format import quantize_layer
from lathe.compressor.reconstruction.compensated_rounding import round_compensated
from lathe.compressor.reconstruction.rounding_pass import RoundingPass
from lathe.compressor.reconstruction.sequential import DAMPINGS
from support.tiny_families import rounded_blocks
from support.tiny_llama import PLANS
from support.tiny_problem import Lab, make_lab

DEMO = Path(__file__).parents[3] / "demo"
ATTENTION = [f"self_attn.{name}_proj.weight" for name in "qkv"]
FFN = [f"mlp.{name}_proj.weight" for name in ("gate", "up")]
STACKS: dict[BlockKind, list[list[str]]] = {"attention": [ATTENTION], "ffn": [[name] for name in FFN]}
OUTPUT = {"attention": "self_attn.o_proj", "ffn": "mlp.down_proj"}
Layer = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return make_lab(tmp_path_factory.mktemp("biased") / "tiny", attention_bias=True, mlp_bias=True)


def rounded_by_pass(
    lab: Lab, plan: Plan, layers: list[Layer] | None = None, bfloat16: bool = False
) -> list[Rounded]:
    made: list[Rounded] = []
    model = replace(lab.model, layers=layers or lab.layers)
    rounding = RoundingPass(model, plan, lab.windows, lab.heldout, bfloat16=bfloat16)
    for index in range(len(plan)):
        made.append(rounding.layer(index, made.__getitem__))
    return made


def inputs_of(
    runner: BlockRunner, kind: BlockKind, layer: Layer, state: torch.Tensor, name: str
) -> torch.Tensor:
    """What a matrix reads, [tokens, n]."""
    with runner.watch(kind) as seen:
        runner.block(kind, layer, state)
    return seen[name][0].flatten(0, 1).double()


def group(weights: list[torch.Tensor], bits: int) -> int:
    return quantize_matrix(torch.cat(weights), bits, groups_for(weights[0].shape[1])).group


def solved(start: torch.Tensor, y: torch.Tensor, x: torch.Tensor, heldout: torch.Tensor) -> torch.Tensor:
    """The ridge solution around `start` [D, n], from targets and inputs [B, T, ...], by plain inverses."""
    (fit_x, far_x), (fit_y, far_y) = (
        [part[~heldout].flatten(0, 1), part[heldout].flatten(0, 1)] for part in (x, y)
    )
    gram, cross = fit_x.T @ fit_x / len(fit_x), fit_y.T @ fit_x / len(fit_x)
    tried = []
    for damping in DAMPINGS:
        ridge = damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        tried.append((cross + start.double() @ ridge) @ torch.linalg.inv(gram + ridge))
    return min(tried, key=lambda w: float((far_x @ w.T - far_y).square().sum())).float()


def steps_of(lab: Lab, bits: int, made: list[Layer]) -> Iterator[tuple[str, torch.Tensor]]:
    """What a plain loop over all windows makes of each tensor, from what was `made` of those before it.

    (A code on the edge of two falls to either side, and all that follow follow it.)
    """
    dense = subnet = lab.embedded
    fit = ~lab.heldout
    for index, before in enumerate(lab.layers):
        runner, layer = lab.runner.at(index), dict(before)
        for kind, stacks in STACKS.items():
            after = runner.block(kind, before, dense)
            x = inputs_of(runner, kind, layer, subnet[fit], stacks[0][0])
            for names in stacks:
                own = group([before[name] for name in names], bits)
                for name in names:
                    yield name, round_compensated(before[name], x.T @ x / len(x), bits, own).values
                    layer[name] = made[index][name]
            last = {name: w for name, w in made[index].items() if name.startswith(OUTPUT[kind])}
            yield from output_step(runner, kind, layer, subnet, after - subnet, fit, bits, last)
            layer |= last
            dense, subnet = after, runner.block(kind, layer, subnet)


def output_step(
    runner: BlockRunner,
    kind: BlockKind,
    layer: Layer,
    subnet: torch.Tensor,
    missing: torch.Tensor,
    fit: torch.Tensor,
    bits: int,
    made: Layer,
) -> Iterator[tuple[str, torch.Tensor]]:
    """An output projection that makes what the stream is missing, [B, T, D], and its bias."""
    name = OUTPUT[kind]
    weight, bias, target = layer[f"{name}.weight"], layer.get(f"{name}.bias"), missing.double()
    x = inputs_of(runner, kind, layer, subnet, f"{name}.weight").unflatten(0, subnet.shape[:2])
    read, start = x, weight
    if bias is not None:
        read = torch.cat([x, torch.ones_like(x[..., :1])], -1)
        start = torch.cat([weight, bias[:, None]], 1)
    found, flat = solved(start, target, read, ~fit)[:, : x.shape[-1]], x[fit].flatten(0, 1)
    centred = flat - flat.mean(0) if bias is not None else flat
    gram = centred.T @ centred / len(flat)
    yield f"{name}.weight", round_compensated(found, gram, bits, group([weight], bits)).values
    if bias is not None:
        output = flat @ made[f"{name}.weight"].double().T
        yield f"{name}.bias", (target[fit].flatten(0, 1) - output).mean(0).float()


@torch.no_grad()
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("which", ["lab", "biased"])
def test_the_pass_is_the_loop_over_whole_arrays(
    which: str, bits: int, request: pytest.FixtureRequest
) -> None:
    lab: Lab = request.getfixturevalue(which)
    found = [dequantized(layer) for layer in rounded_by_pass(lab, PLANS["dense"].in_bits(bits, 0))]
    steps = list(steps_of(lab, bits, found))
    names = list(found[0])
    assert [name for name, _ in steps] == names * len(found)
    for place, (name, expected) in enumerate(steps):
        near = torch.isclose(found[place // len(names)][name], expected, rtol=1e-3, atol=1e-5)
        assert near.float().mean() > 0.98, name


def with_rounded(lab: Lab, made: list[Rounded]) -> list[Layer]:
    return [{**layer, **dequantized(own)} for layer, own in zip(lab.layers, made, strict=True)]


def errors(lab: Lab, layers: list[Layer]) -> float:
    """How far the stream ends from the dense one, on the held-out windows."""
    dense = subnet = lab.embedded[lab.heldout]
    for index, layer in enumerate(layers):
        dense, subnet = lab.runner.layer(lab.layers[index], dense), lab.runner.layer(layer, subnet)
    return float((subnet - dense).norm())


@torch.no_grad()
@pytest.mark.parametrize("bits", [4, 8])
def test_the_stream_ends_nearer_to_the_dense_one_than_by_rounding_to_nearest(lab: Lab, bits: int) -> None:
    made = rounded_by_pass(lab, PLANS["dense"].in_bits(bits, 0))
    nearest = errors(lab, [quantize_layer(layer, bits)[0] for layer in lab.layers])
    assert errors(lab, with_rounded(lab, made)) < 0.8 * nearest


@torch.no_grad()
def test_a_trained_model_loses_less_than_by_rounding_to_nearest() -> None:
    source = open_checkpoint(str(DEMO / "model"))
    model = LayeredModel.open(source, ArrayStore())
    text = token_windows(source, str(DEMO / "heldout.txt"), 256)
    (windows, judged), plan = text[:44].split([36, 8]), source.shape.dense_plan.in_bits(4, 8)
    rounding, made = RoundingPass(model, plan, windows, torch.arange(36) >= 32), list[Rounded]()
    for index in range(len(plan)):
        made.append(rounding.layer(index, made.__getitem__))

    def kl(layers: list[Layer]) -> float:
        dense = subnet = model.embedding[judged]
        for before, layer in zip(model.layers, layers, strict=True):
            dense, subnet = model.runner.layer(before, dense), model.runner.layer(layer, subnet)
        return model.head.kl(model.head.targets(dense), subnet)

    nearest = kl([quantize_layer(layer, 4)[0] for layer in model.layers])
    assert kl([rounding.served(index, layer) for index, layer in enumerate(made)]) < 0.6 * nearest


def test_blocks_without_bits_and_dropped_blocks_are_left(lab: Lab) -> None:
    plan = rounded_blocks(PLANS["groups"])
    made = rounded_by_pass(lab, plan, lab.first_units(plan))
    projections = {kind: [n for names in stacks for n in names] for kind, stacks in STACKS.items()}
    for layer, found in zip(plan, made, strict=True):
        bits = {kind: layer.bits(kind) for kind in BLOCK_KINDS}
        expected = {
            name: bits[kind]
            for kind in BLOCK_KINDS
            if bits[kind]
            for name in (*projections[kind], f"{OUTPUT[kind]}.weight")
        }
        assert {name: m.bits for name, m in found.items() if isinstance(m, QuantizedMatrix)} == expected
        assert set(found) == set(expected)


def test_the_pass_goes_on_from_rounded_layers_bit_by_bit(lab: Lab, tmp_path: Path) -> None:
    plan = PLANS["groups"].in_bits(4, 0)
    layers = lab.first_units(plan)
    whole = rounded_by_pass(lab, plan, layers)
    model = replace(lab.model, layers=layers)
    later = RoundingPass(model, plan, lab.windows, lab.heldout, ArrayStore(tmp_path))
    for index in (2, 3):
        found = to_tensors(later.layer(index, lambda below: from_tensors(to_tensors(whole[below]))))
        expected = to_tensors(whole[index])
        assert set(found) == set(expected)
        assert all(found[name].equal(value) for name, value in expected.items())


@torch.no_grad()
@pytest.mark.usefixtures("bfloat16_products")
def test_hidden_states_of_bfloat16_products_do_as_well(lab: Lab) -> None:
    ends = []
    for rough in (False, True):
        made = rounded_by_pass(lab, PLANS["dense"].in_bits(4, 0), bfloat16=rough)
        ends.append(errors(lab, with_rounded(lab, made)))
    assert ends[0] != ends[1]
    assert ends[1] == pytest.approx(ends[0], rel=0.1)
