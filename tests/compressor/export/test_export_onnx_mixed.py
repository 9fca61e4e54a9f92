"""ONNX graphs of mixed formats: the graphs they are where all is alike, their values, bytes and summary."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.artefact.plan import Plan
from lathe.compressor.export import exporters
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.export.onnx.blockwise import Blockwise
from lathe.compressor.export.onnx.graph import read_summary
from lathe.compressor.model.checkpoint import Checkpoint
from support.family_checks import QUANTIZED, mixed_difference
from support.tiny_families import family_checkpoint, rounded_blocks
from support.tiny_llama import PLANS, checkpoint, pruned, tokens

MIXED = exporters.get("onnx-mixed")
TIED = pytest.mark.parametrize("tied", [True, False])


def written(directory: Path, source: Checkpoint, plan: Plan) -> onnx.ModelProto:
    MIXED.write(directory, pruned(source, plan))
    return onnx.load(directory / "onnx" / "model.onnx", load_external_data=False)


def contents(directory: Path) -> list[bytes]:
    return [(directory / "onnx" / name).read_bytes() for name in ("model.onnx", "model.onnx.data")]


@TIED
def test_a_plan_without_bits_gives_the_float32_graph(tmp_path: Path, tied: bool) -> None:
    source = checkpoint(tmp_path / "dense", tie_word_embeddings=tied)
    export_onnx(tmp_path / "plain", pruned(source, PLANS["mixed"]))
    written(tmp_path / "mixed", source, PLANS["mixed"])
    assert contents(tmp_path / "mixed") == contents(tmp_path / "plain")


@TIED
def test_a_plan_of_8_bits_gives_the_graph_of_8_bits(tmp_path: Path, tied: bool) -> None:
    source, plan = checkpoint(tmp_path / "dense", tie_word_embeddings=tied), PLANS["mixed"]
    found = written(tmp_path / "mixed", source, plan.in_bits(8, 8))
    export_onnx(tmp_path / "int8", pruned(source, plan), partial(Blockwise, bits=8))
    expected = onnx.load(tmp_path / "int8" / "onnx" / "model.onnx", load_external_data=False)
    assert found.graph.SerializeToString() == expected.graph.SerializeToString()
    assert contents(tmp_path / "mixed")[1] == contents(tmp_path / "int8")[1]


@TIED
@pytest.mark.parametrize("head_bits", [0, 8, 4])
def test_embedding_and_head_are_stored_as_the_plan_says(tmp_path: Path, tied: bool, head_bits: int) -> None:
    source = checkpoint(tmp_path / "dense", tie_word_embeddings=tied)
    plan = rounded_blocks(PLANS["dense"], head_bits)
    assert mixed_difference(tmp_path, source, plan) <= QUANTIZED
    operators = Counter(node.op_type for node in written(tmp_path / "out", source, plan).graph.node)
    assert operators["GatherBlockQuantized"] == bool(head_bits)
    assert operators["Gemm"] == (not head_bits)


def test_every_block_has_its_own_bits(tmp_path: Path) -> None:
    source, plan = checkpoint(tmp_path / "dense"), rounded_blocks(PLANS["groups"], 0)
    found = {}
    for node in written(tmp_path, source, plan).graph.node:
        if node.op_type in ("MatMul", "MatMulNBits"):
            given = {entry.name: entry.i for entry in node.attribute}
            found[node.name.removeprefix("model.layers.").removesuffix(".product")] = given.get("bits", 0)
    attention, ffn = ("qkv", "self_attn.o_proj"), ("mlp.up_proj", "mlp.gate_proj", "mlp.down_proj")
    assert found == {
        f"{index}.{module}": bits
        for index, layer in enumerate(plan)
        for modules, present, bits in (
            (attention, layer.kv_heads, layer.attention_bits),
            (ffn, layer.ffn, layer.ffn_bits),
        )
        if present
        for module in modules
    }


def test_the_summary_counts_matrices_of_every_format(tmp_path: Path) -> None:
    source, plan = checkpoint(tmp_path / "dense"), rounded_blocks(PLANS["dense"])
    written(tmp_path, source, plan)
    summary = read_summary(tmp_path / "onnx")
    assert summary["scheme"] == "mixed"
    formats = summary["formats"]
    # Layer 1 and the FFN of layer 3; embedding, head, attention of 0, FFN of 2; FFN of 0, attention of 3.
    assert {name: row["matrices"] for name, row in formats.items()} == {"float32": 8, "int8": 7, "int4": 5}
    assert [sum(formats[name]["groups"].values()) for name in ("int8", "int4")] == [7, 5]
    assert set(formats["int4"]) == {"matrices", "groups", "relative_error"}
    eight, four = (formats[name]["relative_error"] for name in ("int8", "int4"))
    assert eight["max"] < 0.02 < four["median"] <= four["max"] == summary["relative_error"]["max"]
    assert eight["median"] <= summary["relative_error"]["median"] <= four["median"]
    runner = OnnxRunner(tmp_path / "onnx" / "model.onnx", max_batch=1, max_length=8, threads=1)
    size = summary["weight_bytes"]
    assert runner.weight_bytes == size["after"] < size["before"]
    assert "scheme" not in written_summary(tmp_path / "plain", source)


def written_summary(directory: Path, source: Checkpoint) -> dict[str, object]:
    written(directory, source, PLANS["dense"])
    return read_summary(directory / "onnx")


def test_rows_of_a_batch_are_served_each_by_itself(tmp_path: Path) -> None:
    written(tmp_path, checkpoint(tmp_path / "dense"), rounded_blocks(PLANS["groups"]))
    runner = OnnxRunner(tmp_path / "onnx" / "model.onnx", max_batch=2, max_length=32, threads=1)
    rows = [tokens(1, length, seed=length)[0].numpy() for length in (9, 17)]
    alone = []
    for row in rows:
        runner.reset(0)
        alone.append(runner.prefill(0, row))
    runner.reset(0)
    for slot, row in enumerate(rows):
        np.testing.assert_array_equal(runner.prefill(slot, row), alone[slot])
    assert np.isfinite(runner.decode(np.array([5, 6]))).all()


def test_what_has_no_such_graph_is_refused(tmp_path: Path) -> None:
    experts = family_checkpoint(tmp_path / "mixtral", "mixtral")
    with pytest.raises(UserError, match="has experts, which onnx-mixed does not take") as refused:
        MIXED.check(experts)
    assert "--quantize int8" in str(refused.value)
    assert not MIXED.knows(experts.family)
    MIXED.check(checkpoint(tmp_path / "dense"))
