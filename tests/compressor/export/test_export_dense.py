"""The dense artefact, its cache and its manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lathe.artefact.errors import UserError
from lathe.artefact.manifest import write_manifest
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.artefact.plan import Plan
from lathe.compressor.export.dense import dense_artefact, export_dense
from support.tiny_llama import PLANS, checkpoint, reference, tokens


def test_dense_artefact_is_complete_and_made_once(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "model")
    artefact = dense_artefact(str(source.path), tmp_path / "cache")
    assert {str(file.relative_to(artefact)) for file in artefact.rglob("*") if file.is_file()} == {
        "config.json",
        "generation_config.json",
        "manifest.json",
        "onnx/model.onnx",
        "onnx/model.onnx.data",
        "plan.json",
        "tokenizer.json",
    }
    assert Plan.load(artefact / "plan.json") == source.shape.dense_plan
    made = (artefact / "manifest.json").stat().st_mtime_ns
    assert dense_artefact(str(source.path), tmp_path / "cache") == artefact
    assert (artefact / "manifest.json").stat().st_mtime_ns == made
    assert [entry.name for entry in artefact.parent.iterdir()] == [artefact.name]

    ids = tokens(1, 12)
    with torch.no_grad():
        expected = reference(source, PLANS["dense"])(ids).logits[0].numpy()
    model = OnnxRunner(artefact / "onnx" / "model.onnx", max_batch=1, max_length=32, threads=1)
    np.testing.assert_allclose(model.prefill(0, ids[0].numpy(), "all"), expected, atol=2e-5, rtol=0)


def test_a_changed_model_is_exported_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    source = checkpoint(tmp_path / "model")
    first = dense_artefact(str(source.path))
    assert first.is_relative_to(tmp_path / "cache")
    (source.path / "tokenizer.json").write_text("{}\n")
    assert dense_artefact(str(source.path)) != first


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "model")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="cannot write .*cache/dense"):
        dense_artefact(str(source.path), tmp_path / "cache")


@pytest.mark.parametrize("to", ["checkpoint", "onnx"])
def test_export_dense_writes_a_new_directory(tmp_path: Path, to: str) -> None:
    source, out = checkpoint(tmp_path / "model"), tmp_path / "out"
    export_dense(str(source.path), out, to)
    assert {"config.json", "manifest.json", "plan.json", "tokenizer.json"} < {f.name for f in out.iterdir()}
    model_type = json.loads((out / "config.json").read_text())["model_type"]
    assert model_type == {"checkpoint": "lathe_llama", "onnx": "llama"}[to]
    with pytest.raises(UserError, match="exists"):
        export_dense(str(source.path), out, to)
    with pytest.raises(UserError, match="no exporter `coreml`"):
        export_dense(str(source.path), tmp_path / "other", "coreml")


def test_manifest_lists_every_file_but_itself_and_hidden_ones(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"graph")
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / ".run").mkdir()
    (tmp_path / ".run" / "state").write_bytes(b"x")
    for _ in range(2):
        write_manifest(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text()) == {
        "format": "lathe-artefact/1",
        "files": {
            "config.json": {"sha256": hashlib.sha256(b"{}").hexdigest(), "bytes": 2},
            "onnx/model.onnx": {"sha256": hashlib.sha256(b"graph").hexdigest(), "bytes": 5},
        },
    }
