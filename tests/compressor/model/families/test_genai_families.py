"""Graphs with a mask, of every family, called as onnxruntime-genai calls them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from lathe.artefact.onnx.graph_format import GRAPH
from lathe.compressor.export.genai import add_genai
from lathe.compressor.export.genai.config import GENAI_GRAPH
from lathe.compressor.export.onnx import export_onnx
from support.family_checks import ONNX, check_inputs, known, logits, opened
from support.masked_graph import MaskedGraph
from support.shown import Shows
from support.tiny_families import family_checkpoint, first_of_each, planned, zeroed
from support.tiny_llama import tokens


@pytest.mark.parametrize("case", known("genai"))
def test_a_padded_batch_is_transformers_for_each_row(tmp_path: Path, case: str, shows: Shows) -> None:
    near = shows("genai", case)
    source = family_checkpoint(tmp_path / "dense", case, eos_token_id=1)
    plan = planned(source, "no attention first")
    export_onnx(tmp_path, first_of_each(source, plan))
    opened(tmp_path / GRAPH, 1, 1)
    add_genai(tmp_path, source)
    onnx.checker.check_model(str(tmp_path / GENAI_GRAPH))
    check_inputs(tmp_path / GENAI_GRAPH)
    ids, lengths = tokens(2, 40).numpy(), (25, 18)
    graph = MaskedGraph(
        tmp_path / GENAI_GRAPH, [row[:n] for row, n in zip(ids, lengths, strict=True)], length=40
    )
    found = [graph.logits]
    for step in range(15):
        found.append(graph.append(np.array([[ids[row, n + step]] for row, n in enumerate(lengths)])))
    expected = logits(zeroed(source, plan), torch.from_numpy(ids)).numpy()
    places = [[n - 1 + step for n in lengths] for step in range(16)]
    wanted = np.array([[expected[row, at] for row, at in enumerate(place)] for place in places])
    assert near(float(np.abs(np.array(found) - wanted).max())) <= ONNX
