"""`make bench-evaluate`: what its ratios are of, and that a plain pass of a graph is the graph's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import evaluate
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.compressor.export.onnx import export_onnx
from support.tiny_llama import PLANS, checkpoint, pruned


def samples(wall: float, cpu: float) -> list[evaluate.Sample]:
    return [{"wall": wall, "cpu": cpu}, {"wall": 9 * wall, "cpu": 9 * cpu}, {"wall": 0.1, "cpu": 0.1}]


def test_kl_is_set_against_a_pass_of_each_model() -> None:
    found = evaluate._ratios(
        {
            "checkpoint plain": samples(2.0, 4.0),
            "checkpoint perplexity": samples(3.0, 5.0),
            "onnx plain": samples(1.0, 1.0),
            "onnx kl": samples(6.0, 5.0),
        }
    )
    assert found == {
        "checkpoint perplexity": {"wall": 1.5, "cpu": 1.25},
        "onnx kl": {"wall": 2.0, "cpu": 1.0},
    }


def test_a_plain_pass_is_the_sessions_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_onnx(tmp_path / "graph", pruned(checkpoint(tmp_path / "dense"), PLANS["mixed"]))
    path, ran = tmp_path / "graph/onnx/model.onnx", []

    class Session(evaluate.ort.InferenceSession):
        def run(self, *arguments):
            ran.append(super().run(*arguments)[0])
            return ran[-1]

    monkeypatch.setattr(evaluate.ort, "InferenceSession", Session)
    windows = torch.arange(40).view(2, 20)
    evaluate._plain_graph(path)(windows)
    runner = OnnxRunner(path, max_batch=1, max_length=20)
    for tokens, logits in zip(windows, ran, strict=True):
        runner.reset(0)
        assert logits == pytest.approx(runner.prefill(0, tokens.numpy(), "all"), abs=1e-5)
