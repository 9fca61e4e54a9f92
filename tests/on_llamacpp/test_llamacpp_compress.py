"""`compress --backend llamacpp --export gguf`: plans, bits and the finished file are llama.cpp's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

from lathe.artefact.gguf_suffix import MODEL_FILE
from support.compress_command import Tiny, make_tiny
from support.gguf_graph import GgufGraph


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("compress"))


def test_a_float_file_agrees_with_transformers(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = tiny.compress(out, "--keep", "60%", "--export", "gguf")
    assert done.exit_code == 0, done.output
    report = json.loads((out / "report.json").read_text())
    assert report["parity"]["llama_cpp_vs_transformers"] < 2e-4
    assert report["parity"]["onnx_vs_transformers"] is None


def test_bits_by_block_are_searched_rounded_and_scored(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    memory = ("--target-memory", "0.3MiB", "--bits", "auto", "--batch-size", "1", "--context", "64")
    done = tiny.compress(out, *memory, "--backend", "llamacpp", "--export", "gguf", "--measure-seconds", "2")
    assert done.exit_code == 0, done.output
    report = json.loads((out / "report.json").read_text())
    assert report["served"]["exports"] == ["checkpoint", "gguf-mixed"]
    stored = report["quantization"]
    assert stored["scheme"] == "mixed"
    assert stored["loss"]["subnet"] > 0
    assert stored["llama_cpp"]["rms"] < 0.3
    types = GgufGraph(out / MODEL_FILE).types
    plan = json.loads((out / "plan.json").read_text())
    kinds = {8: "Q8_0", 4: "Q4_0"}
    for index, layer in enumerate(plan["layers"]):
        if bits := layer.get("ffn_bits"):
            assert types[f"blk.{index}.ffn_up.weight"] == kinds[bits]
    assert report["latency"]["backend"] == "llamacpp-mixed"
