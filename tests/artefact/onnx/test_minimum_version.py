"""Graphs name the ONNX Runtime that they need: older ones give other answers without a word."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import onnxruntime as ort
import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.onnx import minimum_version as oldest
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.compressor.export.onnx import check_source, export_onnx
from lathe.compressor.export.onnx.blockwise import Blockwise
from support.tiny_families import family_checkpoint, first_of_each, planned


@pytest.mark.parametrize(
    ("case", "rounded", "needed"),
    [
        ("mistral, window", False, "1.24"),
        ("mixtral", False, "1.24"),
        ("mixtral", True, "1.31"),
        ("qwen3_moe", False, "1.32"),
        ("qwen3_moe", True, "1.31"),
        ("qwen3_moe, normalised", False, "1.24"),
        ("gemma2", False, "1.24"),
        ("gemma3_text", False, "1.24"),
    ],
)
def test_a_runtime_that_computes_a_model_wrongly_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, rounded: bool, needed: str
) -> None:
    source = family_checkpoint(tmp_path, case)
    check_source(source, rounded)
    before = f"1.{int(needed.split('.')[1]) - 1}.9"
    monkeypatch.setattr(oldest, "INSTALLED", before)
    with pytest.raises(UserError, match=rf"needs ONNX Runtime {needed} or newer: {before}"):
        check_source(source, rounded)
    monkeypatch.setattr(oldest, "INSTALLED", f"{needed}.0")
    check_source(source, rounded)


def test_a_graph_is_refused_where_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = family_checkpoint(tmp_path / "dense", "qwen3_moe")
    export_onnx(tmp_path, first_of_each(source, planned(source, "mixed")))
    graph = tmp_path / "onnx" / "model.onnx"
    OnnxRunner(graph, max_batch=1, max_length=8, threads=1)
    monkeypatch.setattr(oldest, "INSTALLED", "1.31.1")
    with pytest.raises(UserError, match=r"model.onnx needs ONNX Runtime 1.32 or newer"):
        OnnxRunner(graph, max_batch=1, max_length=8, threads=1)


def no_session(*_: object, **__: object) -> None:
    raise RuntimeError("INVALID_GRAPH")


def test_a_graph_that_an_old_runtime_cannot_load_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ONNX Runtime itself says of operators that it does not know helps nobody."""
    source = family_checkpoint(tmp_path / "dense", "mixtral")
    export_onnx(tmp_path, first_of_each(source, planned(source, "mixed")), partial(Blockwise, bits=8))
    monkeypatch.setattr(oldest, "INSTALLED", "1.30.0")
    monkeypatch.setattr(ort, "InferenceSession", no_session)
    with pytest.raises(UserError, match=r"model.onnx needs ONNX Runtime 1.31 or newer: 1.30.0"):
        OnnxRunner(tmp_path / "onnx" / "model.onnx", max_batch=1, max_length=8, threads=1)
