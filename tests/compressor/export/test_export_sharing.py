"""Files of a family that several subnets read: views and links that change nothing of what is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lathe.artefact.linked_files import bytes_once
from lathe.artefact.modeling import register
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.export.onnx.blockwise import Blockwise
from lathe.compressor.export.onnx.matrices import Matrices, Plain
from lathe.compressor.export.onnx.sharing import share_graphs
from lathe.compressor.export.onnx.writer import GraphWriter
from lathe.compressor.export.shared_checkpoints import share_checkpoints
from lathe.compressor.model.rounding import quantize_in_groups
from support.tiny_llama import DENSE, checkpoint, plan, pruned, reference, tokens

PLANS = {
    "wide": plan(DENSE, DENSE, (8, 4, 64), DENSE),
    "middle": plan((4, 2, 96), DENSE, (8, 4, 64), (4, 4, 32)),
    "narrow": plan((4, 2, 32), (0, 0, 64), (6, 3, 0), (4, 4, 32)),
}
FORMATS: dict[str, Callable[[GraphWriter], Matrices]] = {
    "float32": Plain,
    "int8": partial(Blockwise, bits=8, quantize=lambda w, bits, _groups: quantize_in_groups(w, bits, 32)),
}


def logits(directory: Path) -> np.ndarray:
    runner = OnnxRunner(directory / "onnx" / "model.onnx", max_batch=1, max_length=32, threads=1)
    return runner.prefill(0, tokens(12).numpy(), logits="all").copy()


@pytest.mark.parametrize("name", FORMATS)
def test_graphs_read_the_same_file_and_compute_what_they_did(tmp_path: Path, name: str) -> None:
    source = checkpoint(tmp_path / "dense")
    places = [tmp_path / plan_name for plan_name in PLANS]
    for place, subnet in zip(places, PLANS.values(), strict=True):
        export_onnx(place, replace(pruned(source, subnet), nested=True), FORMATS[name])
    before, apart = [logits(place) for place in places], bytes_once(places)
    share_graphs([place / "onnx" for place in places])
    for place, known in zip(places, before, strict=True):
        assert np.array_equal(logits(place), known)
    shared = [(place / "onnx" / "shared.onnx.data").stat() for place in places]
    assert {found.st_ino for found in shared} == {shared[0].st_ino}
    assert bytes_once(places) < 0.75 * apart
    if name == "float32":
        with torch.no_grad():
            expected = reference(source, PLANS["narrow"])(tokens(1, 12)).logits[0].numpy()
        np.testing.assert_allclose(before[2], expected, atol=2e-4)


def test_checkpoints_hold_equal_tensors_once_and_load_as_they_did(tmp_path: Path) -> None:
    register()
    source = checkpoint(tmp_path / "dense", dtype=torch.bfloat16)
    places = [tmp_path / plan_name for plan_name in PLANS]
    for place, subnet in zip(places, PLANS.values(), strict=True):
        export_checkpoint(place, pruned(source, subnet))
    before, apart = [load_file(place / "model.safetensors") for place in places], bytes_once(places)
    share_checkpoints(places)
    for place, known in zip(places, before, strict=True):
        found = AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16).state_dict()
        assert found.keys() >= known.keys()
        assert all(torch.equal(found[name], value) for name, value in known.items())
    assert bytes_once(places) < 0.9 * apart
