"""Groups by rule wherever weights are rounded: both kinds of graphs, timed models, and rounding on text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from lathe.artefact.onnx.runner import OnnxRunner
from lathe.compressor.export import Export, exporters
from lathe.compressor.export.onnx.graph import read_summary
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.backends.onnx import laid_out
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.groups import BY_ERROR, RULES, GroupRule
from lathe.compressor.model.rounding import QuantizedMatrix, groups_for, quantize_in_groups
from lathe.compressor.model.stored_format import quantize_experts
from lathe.compressor.reconstruction.rounded_block import round_block
from lathe.compressor.reconstruction.rounding_pass import RoundingPass
from support.tiny_llama import PLANS, checkpoint, reference, tokens
from support.tiny_problem import Lab, make_lab

WIDE = {"hidden_size": 256, "head_dim": 32, "intermediate_size": 512}
"""Rows that hold groups of all sizes."""
RULED = pytest.mark.parametrize("rule", [GroupRule(alpha=0.8), *map(GroupRule, (32, 128, 256))])


def block_sizes(graph: Path) -> dict[str, int]:
    nodes = onnx.load(graph, load_external_data=False).graph.node
    sizes = {n.name: {a.name: a.i for a in n.attribute}.get("block_size", 0) for n in nodes}
    return {name: size for name, size in sizes.items() if size}


def outliers(source: Checkpoint) -> Callable[[str], torch.Tensor]:
    """Tensors of a checkpoint, some of whose down projections have one large column."""

    def tensor(name: str) -> torch.Tensor:
        weight = source.tensor(name).clone()
        if name.endswith(("1.mlp.down_proj.weight", "2.mlp.down_proj.weight")):
            weight[:, 7] *= 100
        return weight

    return tensor


@RULED
@pytest.mark.parametrize("graph", ["onnx-int4", "onnx-mixed"])
def test_a_graphs_matrices_have_the_groups_of_the_rule(tmp_path: Path, graph: str, rule: GroupRule) -> None:
    source = checkpoint(tmp_path / "dense", **WIDE)
    dense = source.shape.dense_plan
    plan = dense.in_bits(4, 8) if graph == "onnx-mixed" else dense
    job = Export(source, plan, outliers(source), groups=rule)
    exporters.get(graph).write(tmp_path, job)
    found = block_sizes(tmp_path / "onnx" / "model.onnx")
    if rule.size:
        assert set(found.values()) == {rule.size}
    else:
        downs = [found[f"model.layers.{layer}.mlp.down_proj.product"] for layer in range(len(plan))]
        assert downs == [256, 128, 128, 256]


def test_the_graph_computes_with_values_rounded_in_the_rules_groups(tmp_path: Path) -> None:
    source, rule = checkpoint(tmp_path / "dense", **WIDE), GroupRule(256)
    job = replace(Export.whole(source), groups=rule)
    exporters.get("onnx-int4").write(tmp_path, job)
    model, ids = reference(source, job.plan), tokens(1, 24)
    with torch.no_grad():
        exact = model(ids).logits[0].numpy()
        for name, value in model.state_dict().items():
            if value.dim() == 2:
                whole = name in ("model.embed_tokens.weight", "lm_head.weight")
                value.copy_(quantize_in_groups(value, 8 if whole else 4, 256).values)
        expected = model(ids).logits[0].numpy()
    runner = OnnxRunner(tmp_path / "onnx" / "model.onnx", max_batch=1, max_length=32, threads=1)
    found = runner.prefill(0, ids[0].numpy(), "all")
    assert np.square(found - expected).mean() < 0.2 * np.square(found - exact).mean()
    assert set(read_summary(tmp_path / "onnx")["groups"]) == {"256"}


@pytest.mark.parametrize("name", RULES)
def test_timed_models_have_the_groups_of_the_rule(tmp_path: Path, name: str) -> None:
    source = checkpoint(tmp_path / "dense", **WIDE)
    plan = source.shape.dense_plan.in_bits(4, 8)
    for format_name in ("onnx-int4", "onnx-mixed"):
        backend = laid_out(backends.get(format_name), RULES[name], False)
        assert backend.export == format_name
        assert backend.name == (format_name if name == "auto" else f"{format_name}-{name}")
        directory = tmp_path / backend.name
        directory.mkdir()
        backend.build(directory, source, plan, len(plan))
        found = set(block_sizes(directory / "model.onnx").values())
        if name.isdecimal():
            assert found == {int(name)}
        else:
            assert found
    assert laid_out(backends.get("torch"), RULES[name], False) is backends.get("torch")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return make_lab(tmp_path_factory.mktemp("lab"))


@pytest.mark.parametrize("rule", [GroupRule(32), GroupRule(64), GroupRule(alpha=0.1), GroupRule(alpha=2.0)])
def test_rounding_on_text_has_the_groups_of_the_rule(lab: Lab, rule: GroupRule) -> None:
    rounding = RoundingPass(lab.model, PLANS["dense"].in_bits(4, 0), lab.windows, lab.heldout, groups=rule)
    made = rounding.layer(0, lambda _below: pytest.fail("no layer is below"))
    most = {GroupRule(64): 64, GroupRule(alpha=0.1): 256}.get(rule, 32)
    assert len(made) == 7
    for name, matrix in made.items():
        assert isinstance(matrix, QuantizedMatrix)
        columns = lab.layers[0][name].shape[1]
        assert matrix.group == next(group for group in groups_for(columns) if group <= most)


def test_a_stack_shares_the_group_that_the_rule_gives_the_stack(lab: Lab) -> None:
    weights: Weights = dict(lab.layers[0])
    names = [f"self_attn.{part}_proj.weight" for part in "qkv"]
    gram = torch.eye(weights[names[0]].shape[1], dtype=torch.float64)
    stack = torch.cat([weights[name] for name in names])
    for rule in (BY_ERROR, GroupRule(32), GroupRule(alpha=0.95)):
        found = round_block(weights, dict.fromkeys(names, gram), bits=4, groups=rule)
        assert {m.group for m in found.values()} == {rule.group(stack, 4, groups_for(stack.shape[1]))}


def test_experts_share_the_smaller_of_the_rules_groups() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {
        "mlp.router.weight": torch.randn(2, 128, generator=generator),
        "mlp.gate_proj.weight": torch.randn(2 * 128, 128, generator=generator),
        "mlp.up_proj.weight": torch.randn(2 * 128, 128, generator=generator),
        "mlp.down_proj.weight": torch.randn(128, 2 * 128, generator=generator),
    }
    assert quantize_experts(weights, 4, GroupRule(64))[1] == 64
    assert quantize_experts(weights, 4, GroupRule(alpha=0.5))[1] == 128
    weights["mlp.down_proj.weight"][:, ::128] *= 100
    assert quantize_experts(weights, 4, GroupRule(alpha=0.9))[1] == 32
