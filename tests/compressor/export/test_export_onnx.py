"""The ONNX graph: validity, size, rotary tables, refusals, and values rounded as the checkpoint's."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from lathe.artefact.errors import UserError
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.artefact.plan import Plan
from lathe.compressor.export import Export
from lathe.compressor.export.checkpoint import write_checkpoint
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.export.onnx.random import random_onnx
from lathe.compressor.export.onnx.rope import rotary_tables
from lathe.compressor.model.checkpoint import open_checkpoint
from lathe.compressor.model.families import resolve
from support.tiny_llama import (
    CONFIG,
    HEAD_DIM,
    LLAMA3_ROPE,
    PLANS,
    VARIANTS,
    checkpoint,
    pruned,
    reference,
    tokens,
)


def export(directory: Path, name: str, **changes: Any) -> onnx.ModelProto:
    export_onnx(directory, pruned(checkpoint(directory / "dense", **changes), PLANS[name]))
    return onnx.load(directory / "onnx" / "model.onnx", load_external_data=False)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_graph_is_valid_and_lists_the_plan(tmp_path: Path, variant: str) -> None:
    model = export(tmp_path, "mixed", **VARIANTS[variant])
    onnx.checker.check_model(str(tmp_path / "onnx" / "model.onnx"))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert Plan.from_json(json.loads(metadata["lathe.plan"])) == PLANS["mixed"]
    assert (metadata["lathe.format"], metadata["lathe.family"]) == ("lathe-onnx/1", "llama")
    caches = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
        if value.name.endswith((".key", ".value"))
    }
    assert caches == {
        f"{side}.{layer}.{part}": ["batch", kv_heads, "max_length", HEAD_DIM]
        for side in ("past_key_values", "present")
        for layer, kv_heads in ((1, 3), (3, 2))
        for part in ("key", "value")
    }


def test_a_layer_is_ten_nodes(tmp_path: Path) -> None:
    operators = Counter(node.op_type for node in export(tmp_path, "dense").graph.node)
    assert operators == {
        "Gather": 1,
        "RMSNormalization": 1,
        "GatherND": 1,
        "Gemm": 1,
        "MatMul": 20,
        "GroupQueryAttention": 4,
        "QuickGelu": 4,
        "Mul": 4,
        "SkipSimplifiedLayerNormalization": 8,
    }


def test_tied_embeddings_are_stored_once(tmp_path: Path) -> None:
    sizes = []
    for tied in (False, True):
        export(tmp_path / str(tied), "dense", tie_word_embeddings=tied)
        sizes.append((tmp_path / str(tied) / "onnx" / "model.onnx.data").stat().st_size)
    assert sizes[0] - sizes[1] >= 4 * CONFIG["vocab_size"] * CONFIG["hidden_size"]


ROPES: list[dict[str, Any]] = [
    {},
    {"rope_theta": 5e5},
    {"rope_theta": 5e5, "rope_scaling": None},
    {"rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_theta": 1e4, "rope_scaling": LLAMA3_ROPE},
    {"rope_parameters": LLAMA3_ROPE},
    {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
]


@pytest.mark.parametrize("rope", ROPES, ids=str)
def test_rotary_tables_are_transformers_own(rope: dict[str, Any]) -> None:
    config = {**CONFIG, **json.loads(json.dumps(rope))}
    rotary = LlamaRotaryEmbedding(LlamaConfig(**{**CONFIG, **json.loads(json.dumps(rope))}))
    expected = rotary(torch.zeros(1), torch.arange(128))
    for table, full in zip(rotary_tables(config, HEAD_DIM), expected, strict=True):
        assert torch.equal(torch.cat([table, table], 1), full)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"hidden_act": "gelu"}, "`hidden_act` gelu"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type `dynamic`"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope type `longrope`"),
        ({"head_dim": 24}, "head dimension 24"),
    ],
)
def test_what_the_graph_cannot_do_is_refused(tmp_path: Path, setting: dict[str, Any], message: str) -> None:
    config = {"model_type": "llama", **CONFIG, **setting}
    with pytest.raises(UserError, match=message):
        random_onnx(tmp_path, config, resolve(config), PLANS["dense"])
    assert list(tmp_path.iterdir()) == []


def test_values_are_the_checkpoints(tmp_path: Path) -> None:
    """Reformed weights have more digits than bfloat16 keeps: the graph uses what the checkpoint stores."""
    source = checkpoint(tmp_path / "dense", dtype=torch.bfloat16)
    precise = Export(source, PLANS["dense"], lambda name: source.tensor(name) * 1.001)
    export_onnx(tmp_path, precise)
    write_checkpoint(tmp_path / "out", source, precise.plan, precise.tensor)
    stored = open_source_as_llama(tmp_path / "out")
    ids = tokens(1, 20)
    with torch.no_grad():
        expected = reference(stored, PLANS["dense"])(ids).logits[0].numpy()
    model = OnnxRunner(tmp_path / "onnx" / "model.onnx", max_batch=1, max_length=32, threads=1)
    np.testing.assert_allclose(model.prefill(0, ids[0].numpy(), "all"), expected, atol=2e-5, rtol=0)


def open_source_as_llama(path: Path) -> Any:
    """A keep-all checkpoint has the dense model's tensors: read them as that."""
    config = json.loads((path / "config.json").read_text())
    for key in ("auto_map", "per_layer_config", "dropped_blocks", "allow_global_per_layer_attribute_access"):
        config.pop(key)
    (path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    return open_checkpoint(str(path))


def test_random_graphs_run_and_differ_by_seed(tmp_path: Path) -> None:
    config = {"model_type": "llama", **CONFIG}
    results = []
    for seed in (0, 0, 1):
        directory = tmp_path / str(len(results))
        directory.mkdir()
        random_onnx(directory, config, resolve(config), PLANS["mixed"], seed)
        model = OnnxRunner(directory / "model.onnx", max_batch=1, max_length=32, threads=1)
        results.append(model.prefill(0, tokens(9).numpy()))
    assert np.isfinite(results[0]).all()
    assert results[0].std() > 1e-3
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
