"""ONNX graphs of rounded weights: their values, groups and bytes, who shares a batch, and the command."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch.testing import assert_close

from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.compressor.export import Export, exporters
from lathe.compressor.export.artefact import open_model
from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.export.onnx.blockwise import Blockwise, arbitrary
from lathe.compressor.export.onnx.graph import read_summary
from lathe.compressor.export.onnx.random import random_onnx
from lathe.compressor.export.onnx_quantized import quantize_onnx
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.families import resolve
from lathe.compressor.model.rounding import GROUPS, QuantizedMatrix, groups_for, quantize_matrix
from lathe.compressor.search.space import make_space, memory_constraint
from support.compress_command import lathe
from support.tiny_llama import CONFIG, PLANS, VARIANTS, checkpoint, plan, pruned, reference, tokens

BITS = pytest.mark.parametrize("bits", [8, 4])
EVEN = plan((0, 0, 32), (2, 2, 64), (0, 0, 0), (4, 2, 0))


def fitted(weight: torch.Tensor, bits: int) -> QuantizedMatrix:
    return quantize_matrix(weight, bits, groups_for(weight.shape[1]))


def normal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02


def graph(directory: Path, job: Export, bits: int) -> onnx.ModelProto:
    export_onnx(directory, job, partial(Blockwise, bits=bits))
    return onnx.load(directory / "onnx" / "model.onnx")


@BITS
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_graph_computes_with_the_rounded_values(tmp_path: Path, bits: int, variant: str) -> None:
    """Against transformers with the same rounded matrices. What is left is the rounding of activations to
    int8: a few percent of the logits' spread, many times less than another scale or code would make."""
    source = checkpoint(tmp_path / "dense", **VARIANTS[variant])
    job = pruned(source, PLANS["mixed"])
    graph(tmp_path, job, bits)
    whole = ("embed_tokens.weight", "lm_head.weight")

    def rounded(name: str) -> torch.Tensor:
        tensor = job.stored(name)
        if tensor.dim() == 1:
            return tensor
        return fitted(tensor.float(), 8 if name.endswith(whole) else bits).values

    ids = tokens(1, 24)
    expected = logits(tmp_path / "rounded", Export(source, job.plan, rounded), ids)
    runner = OnnxRunner(tmp_path / "onnx" / "model.onnx", max_batch=1, max_length=32, threads=1)
    found = runner.prefill(0, ids[0].numpy(), "all")
    assert np.abs(found - expected).max() < 0.15 * expected.std()
    exact = logits(tmp_path / "exact", job, ids)
    if bits == 4:
        assert np.square(found - expected).mean() < 0.1 * np.square(found - exact).mean()


def logits(directory: Path, job: Export, ids: torch.Tensor) -> Any:
    from lathe.artefact.modeling import register
    from lathe.artefact.modeling.load import load_model

    register()
    export_checkpoint(directory, job)
    with torch.inference_mode():
        return load_model(directory)(input_ids=ids).logits[0].numpy()


@BITS
def test_stored_codes_are_those_of_the_rounding(tmp_path: Path, bits: int) -> None:
    source = checkpoint(tmp_path / "dense")
    stored = {
        w.name: numpy_helper.to_array(w)
        for w in graph(tmp_path, pruned(source, PLANS["ffn"]), bits).graph.initializer
    }
    name = "model.layers.1.mlp.down_proj"
    found = fitted(pruned(source, PLANS["ffn"]).tensor(f"{name}.weight"), bits)
    blocks = stored[f"{name}.codes.blocks"]
    assert blocks.shape == (64, 2, 32 * bits // 8)
    codes = blocks.reshape(64, -1).astype(int)
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], -1).reshape(64, -1)
    np.testing.assert_array_equal(codes - 2 ** (bits - 1), found.codes.numpy())
    np.testing.assert_array_equal(stored[f"{name}.scales"], found.scales.numpy())


@given(
    rows=st.integers(1, 9), columns=st.integers(1, 300), bits=st.sampled_from([4, 8]), seed=st.integers(0, 9)
)
@settings(deadline=None)
def test_no_matrix_is_worse_than_plain_rounding_in_groups_of_32(
    rows: int, columns: int, bits: int, seed: int
) -> None:
    weight = normal(rows, columns, seed) ** 3
    found = fitted(weight, bits)
    padded = torch.nn.functional.pad(weight, (0, -columns % 32)).view(rows, -1, 32)
    top = 2 ** (bits - 1) - 1
    scales = (padded.abs().amax(-1, keepdim=True).clamp(min=1e-30) / top).bfloat16().float()
    plain = (padded / scales).round().clamp(-top - 1, top) * scales - padded
    error = (found.values - weight).norm() / weight.norm()
    assert_close(found.error, float(error), atol=1e-6, rtol=1e-3)
    assert error <= max(0.01, 1.0001 * float(plain.norm() / weight.norm()))
    assert found.group in GROUPS
    assert found.group == 32 or found.codes.shape[1] <= 1.03 * columns


def test_outliers_get_small_groups_and_even_values_large_ones() -> None:
    spiky = normal(64, 512)
    spiky[:, ::32] *= 30
    assert fitted(spiky, 4).group == 32
    assert fitted(torch.full((4, 512), 0.3), 4).group == 256
    assert fitted(torch.zeros(3, 64), 4).error == 0


@BITS
def test_who_shares_the_batch_changes_nothing(tmp_path: Path, bits: int) -> None:
    """But the order of sums: ONNX Runtime multiplies one row by another kernel than several."""
    graph(tmp_path, pruned(checkpoint(tmp_path / "dense"), PLANS["groups"]), bits)
    alone, shared = (
        OnnxRunner(tmp_path / "onnx" / "model.onnx", max_batch=batch, max_length=32, threads=1)
        for batch in (1, 3)
    )
    rows = [tokens(1, length, seed=length)[0].numpy() for length in (9, 4, 17)]
    last = [shared.prefill(slot, row) for slot, row in enumerate(rows)]
    together = shared.decode(np.array([5, 6, 7]))
    for slot, row in enumerate(rows):
        alone.reset(0)
        np.testing.assert_array_equal(alone.prefill(0, row), last[slot])
        by_itself = alone.decode(np.array([5 + slot]))[0]
        assert np.abs(by_itself - together[slot]).max() < 2e-3 * together[slot].std()


def test_a_tied_head_shares_the_embeddings_bytes(tmp_path: Path) -> None:
    sizes = []
    for tied in (False, True):
        source = checkpoint(tmp_path / str(tied), tie_word_embeddings=tied)
        graph(tmp_path / f"graph-{tied}", pruned(source, PLANS["dense"]), 4)
        sizes.append(read_summary(tmp_path / f"graph-{tied}" / "onnx")["weight_bytes"]["after"])
    vocabulary, width = CONFIG["vocab_size"], CONFIG["hidden_size"]
    assert sizes[0] - sizes[1] == vocabulary * width + vocabulary * 4 * (width // 64)


@BITS
def test_random_graphs_have_the_shapes_of_rounded_ones(tmp_path: Path, bits: int) -> None:
    """What is timed instead of a real model does the same work."""
    config = {"model_type": "llama", **CONFIG}
    random_onnx(
        tmp_path, config, resolve(config), EVEN, matrices=partial(Blockwise, bits=bits, quantize=arbitrary)
    )
    runner = OnnxRunner(tmp_path / "model.onnx", max_batch=1, max_length=32, threads=1)
    assert np.isfinite(runner.prefill(0, tokens(9).numpy())).all()
    real = graph(tmp_path / "real", pruned(checkpoint(tmp_path / "dense"), EVEN), bits)
    made = onnx.load(tmp_path / "model.onnx")
    for found, expected in zip(made.graph.node, real.graph.node, strict=True):
        assert (found.op_type, found.name) == (expected.op_type, expected.name)
    codes = [
        numpy_helper.to_array(value, str(tmp_path)).tobytes()
        for value in made.graph.initializer
        if value.name.endswith(".blocks")
    ]
    assert len(set(codes)) == len(codes) > 4, "ONNX Runtime keeps equal weights once"
    for shape in (normal(8, 2048), normal(8, 64)):
        assert (
            0.5 <= arbitrary(shape, bits, groups_for(shape.shape[1])).group / fitted(shape, bits).group <= 2
        )


@pytest.fixture
def artefact(tmp_path: Path) -> tuple[Path, Checkpoint]:
    source, out = checkpoint(tmp_path / "dense"), tmp_path / "artefact"
    export_checkpoint(out, pruned(source, EVEN))
    write_json(out / "plan.json", EVEN.to_json())
    write_json(out / "report.json", {"format": "lathe-report/1", "latency": {"target_ms": 3.0}})
    return out, source


def test_an_artefact_of_a_graph_alone(artefact: tuple[Path, Checkpoint], tmp_path: Path) -> None:
    from lathe.serving.served_model import open_served_model

    given, out = artefact[0], tmp_path / "out"
    summary = quantize_onnx(str(given), out, name="onnx-int4")
    assert {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()} == {
        "config.json",
        "generation_config.json",
        "manifest.json",
        "onnx/model.onnx",
        "onnx/model.onnx.data",
        "plan.json",
        "report.json",
        "tokenizer.json",
    }
    report = json.loads((out / "report.json").read_text())
    assert report["quantization"].items() >= summary.items()
    assert summary["scheme"] == "int4"
    assert sum(summary["groups"].values()) == 2 + 3 + 3 + 2 + 2  # embedding, head; FFNs; fused QKV with O
    described = open_served_model(out)
    assert described.compressed
    assert described.target_ms == 3.0
    runner = OnnxRunner(described.graph, max_batch=1, max_length=16)
    assert runner.weight_bytes == summary["weight_bytes"]["after"] < 0.35 * summary["weight_bytes"]["before"]
    assert open_model(str(given)).plan == EVEN


def test_the_command(artefact: tuple[Path, Checkpoint], tmp_path: Path) -> None:
    given, source = artefact
    for model in (given, source.path):
        out = tmp_path / f"{model.name}-int8"
        done = lathe("export", str(model), "--to", "onnx", "--quantize", "int8", "-o", str(out), "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["quantization"]["scheme"] == "int8"
    refused = {
        ("--quantize", "int3"): "onnx-int4, onnx-int8",
        ("--quantize", "int4", "--tensor-parallel", "2"): "--tensor-parallel does not go with --to onnx",
    }
    for options, message in refused.items():
        result = lathe("export", str(given), "--to", "onnx", *options, "-o", str(tmp_path / "no"))
        assert result.exit_code == 1
        assert message in result.stderr
    with pytest.raises(UserError, match="exists"):
        quantize_onnx(str(given), tmp_path / "artefact-int8", name="onnx-int8")
    assert exporters.get("onnx-int4").multiple == 32


def test_reference_agrees_with_the_shipped_model(tmp_path: Path) -> None:
    """The yardstick of the first test is the plain one."""
    source = checkpoint(tmp_path / "dense")
    ids = tokens(1, 24)
    with torch.no_grad():
        plain = reference(source, PLANS["mixed"])(ids).logits[0].numpy()
    np.testing.assert_allclose(
        logits(tmp_path / "out", pruned(source, PLANS["mixed"]), ids), plain, atol=2e-5
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["onnx", "onnx-int8", "onnx-int4"])
def test_a_memory_target_counts_what_the_graph_holds(tmp_path: Path, name: str, tied: bool) -> None:
    source = checkpoint(tmp_path / "dense", tie_word_embeddings=tied)
    exporters.get(name).write(tmp_path, Export.whole(source))
    held = sum(
        numpy_helper.to_array(value, str(tmp_path / "onnx")).nbytes
        for value in onnx.load(tmp_path / "onnx" / "model.onnx").graph.initializer
        if value.name not in ("cos", "sin")
    )
    shape, stored = source.shape, exporters.get(name).stored(source)
    counted = memory_constraint(
        make_space(shape),
        shape,
        1e9,
        weight_bytes={0: stored.weight},
        kv_bytes=stored.cache,
        tokens=0,
        fixed={0: stored.fixed(shape)},
    ).cost(shape.dense_plan)
    assert 0.8 * counted < held <= 1.01 * counted
