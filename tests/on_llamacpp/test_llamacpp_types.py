"""Quantized GGUF exports of uneven models in llama.cpp, against the values that the files hold."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

from lathe.artefact.errors import UserError
from lathe.artefact.gguf_suffix import MODEL_FILE
from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.export import exporters
from lathe.compressor.model.checkpoint import Checkpoint
from support.gguf_graph import GgufGraph
from support.hosted_models import hosted_checkpoint
from support.tiny_families import first_of_each, rounded_blocks

WIDE = {"hidden_size": 256, "head_dim": 32, "intermediate_size": 512}
PLAN = Plan((LayerShape(8, 4, 512), LayerShape(4, 2, 208), LayerShape(0, 0, 256), LayerShape(6, 3, 0)))
ROUNDED = 0.1
"""The most that rounded activations move logits by here, of their spread."""
KINDS = {
    "f16": "F16",
    "bf16": "BF16",
    "q8_0": "Q8_0",
    "q5_1": "Q5_1",
    "q5_0": "Q5_0",
    "q4_1": "Q4_1",
    "q4_0": "Q4_0",
    "q6_k": "Q6_K",
    "q5_k": "Q5_K",
    "q4_k": "Q4_K",
    "int8": "Q8_0",
    "int4": "Q4_0",
}


@pytest.fixture(scope="module", params=["llama, plain", "qwen3, tied"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return hosted_checkpoint(tmp_path_factory.mktemp("dense"), request.param, **WIDE)


@pytest.mark.parametrize("scheme", KINDS)
def test_llama_cpp_computes_what_the_file_holds(source: Checkpoint, scheme: str, tmp_path: Path) -> None:
    exporter = exporters.get(f"gguf-{scheme}")
    exporter.write(tmp_path, first_of_each(source, PLAN))
    checked = exporter.summary(tmp_path)["llama_cpp"]
    assert checked["rms"] <= ROUNDED
    assert GgufGraph(tmp_path / MODEL_FILE).types["blk.0.ffn_down.weight"] == KINDS[scheme]


def test_bits_by_block(source: Checkpoint, tmp_path: Path) -> None:
    exporter = exporters.get("gguf-mixed")
    exporter.write(tmp_path, first_of_each(source, rounded_blocks(PLAN.replace(3, LayerShape(6, 3, 512)))))
    summary = exporter.summary(tmp_path)
    assert summary["llama_cpp"]["rms"] <= ROUNDED
    assert {"Q8_0", "Q4_0", "F32"} == summary["types"].keys()


def test_a_file_of_another_order_of_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of queries in transformers' order load, and compute nonsense without a message."""
    from lathe.compressor.export.gguf.tensors import Part

    source = hosted_checkpoint(tmp_path / "dense", "llama, plain", **WIDE)
    monkeypatch.setattr(Part, "order", property(lambda _part: None))
    for scheme in ("f32", "q8_0"):
        with pytest.raises(UserError, match="llama.cpp and the reference disagree"):
            exporters.get(f"gguf-{scheme}").write(tmp_path, first_of_each(source, PLAN))
