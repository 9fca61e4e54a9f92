"""Prompts that something else reads than ONNX Runtime, into the runner's cache."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from lathe.artefact.onnx.runner import OnnxRunner
from lathe.compressor.export.onnx import export_onnx
from support.other_reader import OtherReader
from support.tiny_llama import PLANS, checkpoint, pruned, tokens

LENGTH = 64


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mixed")
    export_onnx(directory, pruned(checkpoint(directory / "dense"), PLANS["mixed"]))
    return directory / "onnx" / "model.onnx"


def test_answers_are_the_same_and_short_pieces_are_left_to_onnx_runtime(graph: Path) -> None:
    alone, runner = (OnnxRunner(graph, max_batch=2, max_length=LENGTH, threads=1) for _ in range(2))
    reader = runner.prompt_reader = OtherReader(graph, LENGTH)
    reader.least = 10
    ids = tokens(40).numpy()
    for slot, ends in ((1, (0, 20, 25, 40)), (0, (0, 12))):
        for start, stop in itertools.pairwise(ends):
            piece = ids[start:stop]
            np.testing.assert_array_equal(
                runner.prefill(slot, piece, "all"), alone.prefill(slot, piece, "all")
            )
    assert reader.read_counts == [20, 15, 12]
    np.testing.assert_array_equal(runner.lengths, [12, 40])
    assert runner.held_bytes(1) == alone.held_bytes(1)
    for token in range(5):
        step = np.array([token, token + 7])
        np.testing.assert_array_equal(runner.decode(step), alone.decode(step))
    np.testing.assert_array_equal(runner.prefill(0, ids[:1]), alone.prefill(0, ids[:1]))


def test_only_the_wanted_logits_are_returned(graph: Path) -> None:
    runner = OnnxRunner(graph, max_batch=1, max_length=LENGTH, threads=1)
    expected = runner.prefill(0, tokens(12).numpy())
    runner.reset(0)
    runner.prompt_reader = OtherReader(graph, LENGTH)
    found = runner.prefill(0, tokens(12).numpy())
    assert found.shape == expected.shape == (1, runner.vocab_size)
    np.testing.assert_array_equal(found, expected)
