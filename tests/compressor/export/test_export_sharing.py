"""Files of a family that several subnets read: views and links that change nothing of what is computed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lathe.artefact.atomic_files import write_json
from lathe.artefact.linked_files import bytes_once
from lathe.artefact.modeling import register
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.compressor.export.artefact import export_of_artefact
from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.export.onnx.blockwise import Blockwise
from lathe.compressor.export.onnx.matrices import Matrices, Plain
from lathe.compressor.export.onnx.sharing import share_graphs
from lathe.compressor.export.onnx.writer import GraphWriter
from lathe.compressor.export.shared_checkpoints import share_checkpoints
from lathe.compressor.model.rounding import quantize_in_groups
from lathe.compressor.model.safetensors_index import read_index
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

LOAD = """
import sys
sys.modules["lathe"] = None
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True, dtype=torch.bfloat16)
torch.save(model.state_dict(), sys.argv[2])
"""


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


@pytest.fixture
def shared(tmp_path: Path) -> tuple[list[Path], list[dict[str, torch.Tensor]], int]:
    """Returns checkpoints after they are shared, their tensors before that, and their bytes."""
    register()
    source = checkpoint(tmp_path / "dense", dtype=torch.bfloat16)
    places = [tmp_path / plan_name for plan_name in PLANS]
    for place, subnet in zip(places, PLANS.values(), strict=True):
        export_checkpoint(place, pruned(source, subnet))
        write_json(place / "plan.json", subnet.to_json())
    before, apart = [load_file(place / "model.safetensors") for place in places], bytes_once(places)
    share_checkpoints(places)
    return places, before, apart


Shared = tuple[list[Path], list[dict[str, torch.Tensor]], int]


def test_checkpoints_hold_equal_rows_once_and_load_as_they_did(shared: Shared) -> None:
    places, before, apart = shared
    for place, known in zip(places, before, strict=True):
        found = AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16).state_dict()
        assert found.keys() >= known.keys()
        assert all(torch.equal(found[name], value) for name, value in known.items())
        again = export_of_artefact(place).source
        assert all(torch.equal(again.index[name].read(), value) for name, value in known.items())
        index = json.loads((place / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_parameters"] == sum(value.numel() for value in known.values())
    assert bytes_once(places) < 0.75 * apart
    gates = [read_index(place)["model.layers.0.mlp.gate_proj.weight"].shape[0] for place in places]
    assert gates == [DENSE[2]] * 3, "narrower checkpoints read the rows of the widest"
    marked = [json.loads((place / "config.json").read_text()).get("shared_rows", False) for place in places]
    assert marked == [False, True, True]


def test_a_shared_checkpoint_is_saved_as_one_of_its_own(shared: Shared, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(shared[0][2], dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "own")
    assert not json.loads((tmp_path / "own" / "config.json").read_text()).get("shared_rows", False)
    found = load_file(tmp_path / "own" / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in shared[1][2].items() if name in found)
    assert found["model.layers.0.mlp.gate_proj.weight"].shape[0] == 32


def test_a_shared_checkpoint_loads_without_lathe(shared: Shared, tmp_path: Path) -> None:
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOAD, str(shared[0][2]), str(tmp_path / "found.pt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "found.pt")
    assert all(torch.equal(found[name], value) for name, value in shared[1][2].items())
