"""`compress --export gguf`: a GGUF file beside the checkpoint, of its values or of what text made of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lathe.artefact.gguf.file import open_gguf
from lathe.artefact.gguf.tokenizer import build_tokenizer
from lathe.artefact.gguf_suffix import MODEL_FILE
from lathe.artefact.modeling import register
from lathe.artefact.tokenizer import open_tokenizer
from lathe.compressor.model.rounding import quantize_in_groups
from lathe.compressor.pipeline.options import CompressOptions
from support.compress_command import Tiny, lathe
from support.gguf_graph import GgufGraph
from support.tiny_families import family_checkpoint

pytestmark = pytest.mark.usefixtures("steady", "own_cache")

try:
    import llama_cpp  # noqa: F401

    INSTALLED = True
except ImportError:
    INSTALLED = False


def compress(tiny: Tiny, out: Path, *options: str) -> Any:
    done = tiny.compress(out, "--keep", "60%", "--export", "gguf", *options)
    assert done.exit_code == 0, done.output
    return json.loads((out / "report.json").read_text())


def test_the_file_has_the_checkpoints_values_and_tokenizer(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = compress(tiny, out)
    assert not (out / "onnx").exists()
    assert report["served"]["exports"] == ["checkpoint", "gguf"]
    assert "quantization" not in report
    assert (report["parity"]["llama_cpp_vs_transformers"] is not None) == INSTALLED
    register()
    model, ids = AutoModelForCausalLM.from_pretrained(out).eval(), torch.arange(40)
    with torch.inference_mode():
        expected = model(ids[None]).logits[0]
    graph = GgufGraph(out / MODEL_FILE)
    assert graph.architecture == "deci"
    torch.testing.assert_close(graph.logits(ids), expected, atol=2e-4, rtol=0)
    assert MODEL_FILE in json.loads((out / "manifest.json").read_text())["files"]
    found, own = build_tokenizer(open_gguf(out / MODEL_FILE)), open_tokenizer(tiny.model)
    text = tiny.text.read_text()[:500]
    assert found(text)["input_ids"] == own(text)["input_ids"]
    assert found.chat_template == own.chat_template


def test_weights_that_text_rounded_are_in_the_file(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = compress(tiny, out, "--quantize", "int4")
    assert report["quantization"]["scheme"] == "int4"
    assert (report["quantization"]["llama_cpp"] is not None) == INSTALLED
    graph, stored = GgufGraph(out / MODEL_FILE), load_file(out / "model.safetensors")
    assert graph.types["token_embd.weight"] == "Q8_0"
    moved = {}
    for index in range(graph.metadata["block_count"]):
        name, ours = f"blk.{index}.ffn_up.weight", f"model.layers.{index}.mlp.up_proj.weight"
        if ours not in stored:
            continue
        value, rows = stored[ours].float(), len(stored[ours])
        assert graph.types[name] == "Q4_0"
        found, nearest = graph.tensors[name][:rows], quantize_in_groups(value, 4, 32).values
        moved[index] = (
            float((found - nearest).norm() / value.norm()),
            float((found - value).norm() / value.norm()),
        )
    assert all(0 < apart < 0.25 for apart, _ in moved.values()), "it was rounded with compensation"
    assert all(error < 0.25 for _, error in moved.values())


def test_types_of_llama_cpp_are_exported_by_their_names(tmp_path: Path) -> None:
    options = CompressOptions(
        model="m", out=tmp_path, keep=0.6, calibration="t", export=("gguf",), quantize="q4_k"
    )
    assert options.exports == ("checkpoint", "gguf-q4_k")
    assert options.quantizes
    assert not options.runs, "ONNX Runtime is not timed with such a file"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--export", "onnx,gguf"), "a run writes one graph for an engine, not onnx and gguf"),
        (("--export", "gguf", "--group-size", "64"), "--group-size 64 is not for GGUF"),
        (("--export", "gguf", "--quantize", "int3"), "there is no exporter `gguf-int3`"),
        (("--export", "gguf", "--kv-cache", "int8"), "--kv-cache int8 is for the ONNX graph"),
    ],
)
def test_what_does_not_go_together(tiny: Tiny, tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    done = tiny.compress(tmp_path / "out", "--keep", "60%", *options)
    assert done.exit_code == 1
    assert told in done.output


def test_a_family_without_a_host_is_refused_before_anything(tiny: Tiny, tmp_path: Path) -> None:
    source, out = family_checkpoint(tmp_path / "model", "olmo2", hidden_size=128), str(tmp_path / "out")
    shutil.copy(tiny.model / "tokenizer.json", source.path)
    done = lathe("compress", str(source.path), "--keep", "60%", "--export", "gguf", "--output", out)
    assert done.exit_code == 1
    assert "llama.cpp has no architecture for uneven models of type `olmo2`" in " ".join(done.output.split())


def test_export_says_the_types_and_whether_llama_cpp_was_asked(tiny: Tiny, tmp_path: Path) -> None:
    done = lathe(
        "export", str(tiny.model), "--to", "gguf", "--quantize", "q4_0", "--output", str(tmp_path / "q")
    )
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "q4_0, weights" in said
    assert "Q4_0 " in said
    assert ("llama.cpp is not installed" in said) != INSTALLED
    again = lathe("export", str(tiny.model), "--to", "gguf", "--output", str(tmp_path / "f"), "--json")
    assert json.loads(again.stdout)["weights"]["types"].keys() == {"F32"}
