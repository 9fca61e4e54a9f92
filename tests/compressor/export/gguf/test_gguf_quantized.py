"""GGUF files in quantized types: values, codes that stay as they are, types that fit, and summaries."""

import json
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from lathe.artefact.errors import UserError
from lathe.artefact.gguf_suffix import MODEL_FILE
from lathe.artefact.plan import LayerShape, Plan
from lathe.artefact.shipped_files import warn_if_stale
from lathe.compressor.export import exporters, quantizers
from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.export.gguf import export_gguf
from lathe.compressor.export.gguf.coded_types import CodedTypes, packed
from lathe.compressor.export.gguf.quantized_types import QuantizedTypes
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.groups import BY_ERROR
from lathe.compressor.model.rounding import QuantizedMatrix, quantize_in_groups
from support.gguf_graph import GgufGraph
from support.hosted_models import hosted_checkpoint
from support.tiny_families import first_of_each, planned
from support.tiny_llama import tokens

WIDTHS = Plan((LayerShape(8, 4, 96), LayerShape(4, 2, 40), LayerShape(0, 0, 33), LayerShape(2, 1, 64)))
BITS = [(8, 4), (0, 8), (0, 4), (4, 0)]
MIXED = Plan(
    tuple(
        replace(layer, attention_bits=attention, ffn_bits=ffn)
        for layer, (attention, ffn) in zip(WIDTHS, BITS, strict=True)
    ),
    8,
)


def source_in(directory: Path, case: str = "llama, plain", **changes: int) -> Checkpoint:
    return hosted_checkpoint(directory / "dense", case, **changes)


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_matrices_are_those_of_the_package(kind: str, tmp_path: Path) -> None:
    source = source_in(tmp_path)
    job = first_of_each(source, WIDTHS)
    export_gguf(tmp_path, job, QuantizedTypes(kind))
    graph, number = GgufGraph(tmp_path / MODEL_FILE), gguf.GGMLQuantizationType[kind]
    value = job.tensor("model.layers.1.mlp.up_proj.weight").numpy()
    value = np.concatenate([value, np.zeros((64 - 40, 64), np.float32)])
    expected = gguf.dequantize(gguf.quantize(value, number), number)
    assert torch.equal(graph.tensors["blk.1.ffn_up.weight"], torch.from_numpy(expected))
    assert {graph.types[name] for name in ("token_embd.weight", "output.weight")} == {"Q8_0"}
    assert graph.types["blk.0.attn_norm.weight"] == "F32"
    assert graph.metadata["general.quantization_version"] == 2


def test_rows_that_no_block_divides_are_float16_and_the_summary_says_so(tmp_path: Path) -> None:
    source = source_in(tmp_path)
    narrow = Plan((LayerShape(8, 4, 96), LayerShape(3, 3, 40), LayerShape(8, 4, 96), LayerShape(8, 4, 96)))
    exporters.get("gguf-q4_0").write(tmp_path, first_of_each(source, narrow))
    graph, summary = GgufGraph(tmp_path / MODEL_FILE), exporters.get("gguf-q4_0").summary(tmp_path)
    assert graph.types["blk.1.attn_output.weight"] == "F16"
    assert graph.types["blk.1.ffn_down.weight"] == "Q4_0"
    kinds = {name: list(graph.types.values()).count(name) for name in summary["types"] if name != "F32"}
    assert {name: facts["matrices"] for name, facts in summary["types"].items() if name != "F32"} == kinds
    assert summary["types"]["F16"] == {"matrices": 1, "bytes": 64 * 48 * 2}
    reader = gguf.GGUFReader(tmp_path / MODEL_FILE)
    assert summary["weight_bytes"]["after"] == sum(int(tensor.n_bytes) for tensor in reader.tensors)
    assert 0.05 < summary["relative_error"]["max"] < 0.2


def test_k_quants_fall_back_as_in_llama_cpp() -> None:
    from lathe.compressor.export.gguf.quantized_types import fitting

    assert [fitting("Q4_K", columns) for columns in (512, 576, 48)] == ["Q4_K", "Q5_0", "F16"]
    assert [fitting("Q5_K", 576), fitting("Q6_K", 576)] == ["Q5_1", "Q8_0"]


def test_k_quants_name_what_quantizes_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lathe.artefact.llamacpp import library

    monkeypatch.setitem(__import__("sys").modules, "llama_cpp", None)
    library.llama_cpp.cache_clear()
    with pytest.raises(UserError, match=r"Q4_K is quantized by llama.cpp itself.*lathe\[llamacpp\]"):
        quantizers.get("gguf-q4_k")(str(source_in(tmp_path).path), tmp_path / "out", 1, None, BY_ERROR)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("bits", "kind", "group"), [(8, "Q8_0", 32), (4, "Q4_0", 32), (4, "Q4_0", 128)])
def test_codes_and_scales_are_kept(bits: int, kind: str, group: int) -> None:
    weight = torch.randn(24, 256, generator=torch.Generator().manual_seed(0))
    matrix = quantize_in_groups(weight, bits, group)
    number = gguf.GGMLQuantizationType[kind]
    assert np.array_equal(gguf.dequantize(packed(matrix), number), matrix.values.numpy())


def test_a_group_that_is_wider_than_the_row_in_the_file_is_cut() -> None:
    matrix = quantize_in_groups(torch.randn(4, 96), 4, 64).padded(8, 96)
    found = gguf.dequantize(packed(matrix), gguf.GGMLQuantizationType.Q4_0)
    assert np.array_equal(found, matrix.values.numpy())
    assert not found[4:].any()


def test_what_text_rounded_is_in_the_file_block_by_block(tmp_path: Path) -> None:
    """Also where rows are put into another order, and where the FFN is padded."""
    source = source_in(tmp_path)
    job = first_of_each(source, MIXED)
    coded = {
        f"model.layers.{layer}.{name}.weight": bits
        for layer, names, bits in (
            (0, ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"), 8),
            (0, ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"), 4),
            (1, ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"), 8),
            (3, ("self_attn.q_proj", "self_attn.o_proj"), 4),
        )
        for name in names
    }

    def rounded(name: str) -> QuantizedMatrix | None:
        if name not in coded:
            return None
        found = quantize_in_groups(job.tensor(name), coded[name], 32)
        return replace(found, codes=found.codes.roll(1, 0))  # not what rounding to nearest gives

    job = replace(job, rounded=rounded)
    export_gguf(tmp_path, job, CodedTypes(MIXED, "F32"))
    graph = GgufGraph(tmp_path / MODEL_FILE)
    values = {
        name: found.values if (found := rounded(name)) else job.tensor(name)
        for name in ("model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight")
    }
    assert torch.equal(graph.tensors["blk.0.ffn_down.weight"], values["model.layers.0.mlp.down_proj.weight"])
    down = graph.tensors["blk.1.ffn_down.weight"]
    assert torch.equal(down[:, :40], values["model.layers.1.mlp.down_proj.weight"])
    assert not down[:, 40:].any()
    assert graph.types["blk.1.attn_q.weight"] == graph.types["blk.3.ffn_up.weight"] == "F32"
    dequantized = replace(
        job,
        tensor=lambda name: found.values if (found := rounded(name)) else job.tensor(name),
        rounded=lambda _name: None,
    )
    export_gguf(tmp_path / "dense", dequantized, CodedTypes(MIXED.unrounded, "F32"))
    other = GgufGraph(tmp_path / "dense" / MODEL_FILE)
    for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.3.attn_q.weight"):
        assert torch.equal(graph.tensors[name], other.tensors[name])


def test_an_openelm_matrix_of_codes_and_zeros_is_stacked(tmp_path: Path) -> None:
    source = source_in(tmp_path, "qwen3, tied")
    plan = planned(source, "no attention middle").in_bits(8, 8)
    export_gguf(tmp_path, first_of_each(source, plan), CodedTypes(plan, "F32"))
    graph = GgufGraph(tmp_path / MODEL_FILE)
    assert graph.types["blk.1.attn_qkv.weight"] == "Q8_0"
    ids = tokens(12)
    exact = first_of_each(source, plan.unrounded)
    exporters.get("gguf").write(tmp_path, exact)
    expected = GgufGraph(tmp_path / MODEL_FILE).logits(ids)
    torch.testing.assert_close(graph.logits(ids), expected, atol=0.1, rtol=0)


def test_export_writes_an_artefact_in_bits_of_its_plan_and_reports_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = source_in(tmp_path)
    export_checkpoint(tmp_path / "out", first_of_each(source, MIXED.unrounded))
    (tmp_path / "out" / "plan.json").write_text(json.dumps(MIXED.to_json()))
    summary = quantizers.get("gguf-mixed")(str(tmp_path / "out"), tmp_path / "q", 1, None, BY_ERROR)
    assert summary["scheme"] == "mixed"
    assert {"Q8_0", "Q4_0", "F32"} == summary["types"].keys()
    assert json.loads((tmp_path / "q" / "plan.json").read_text()) == MIXED.to_json()
    assert {"manifest.json", MODEL_FILE, "config.json"} < {file.name for file in (tmp_path / "q").iterdir()}
    warn_if_stale(tmp_path / "q")
    assert "model files of another version" not in caplog.text, "it carries none"
    types = GgufGraph(tmp_path / "q" / MODEL_FILE).types
    assert [types[f"blk.{i}.ffn_up.weight"] for i in range(4)] == ["Q4_0", "Q8_0", "Q4_0", "F32"]
    assert [types[f"blk.{i}.attn_v.weight"] for i in (0, 1, 3)] == ["Q8_0", "F32", "Q4_0"]


def test_a_plan_without_bits_and_bits_for_one_type_are_refused(tmp_path: Path) -> None:
    source = source_in(tmp_path)
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(source.shape.dense_plan.to_json()))
    with pytest.raises(UserError, match="the plan rounds no weights"):
        quantizers.get("gguf-mixed")(str(source.path), tmp_path / "q", 1, file, BY_ERROR)
    with pytest.raises(UserError, match="gives all blocks the same bits"):
        quantizers.get("gguf-q8_0")(str(source.path), tmp_path / "q", 1, file, BY_ERROR)
