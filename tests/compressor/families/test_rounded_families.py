"""int8 and int4 graphs of every family, against our model, in transformers, of the same rounded matrices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_families import CASES, family_checkpoint, first_of_each, planned
from tiny_llama import tokens
from transformers import AutoModelForCausalLM

from compressor.export import Export
from compressor.export.checkpoint import export_checkpoint
from compressor.export.onnx import export_onnx
from compressor.export.onnx.blockwise import Blockwise, Rounded, fitted
from compressor.modeling import register
from serving.engines.onnx.runner import OnnxRunner


def in_small_groups(weight: torch.Tensor, bits: int, _groups: Sequence[int]) -> Rounded:
    """By rows alone: what is rounded together with others is what it is by itself."""
    return fitted(weight, bits, [32])


def keep_activations(file: Path) -> None:
    """Let products read float32, which the kernels else round to int8."""
    model = onnx.load(file, load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 0
    onnx.save(model, file)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("case", CASES)
def test_a_rounded_graph_is_its_rounded_matrices(tmp_path: Path, case: str, bits: int) -> None:
    source = family_checkpoint(tmp_path / "dense", case)
    job = first_of_each(source, planned(source, "mixed"))
    export_onnx(tmp_path, job, partial(Blockwise, bits=bits, rounding=in_small_groups))
    keep_activations(tmp_path / "onnx" / "model.onnx")
    whole = {f"{module}.weight" for module in (source.family.embedding, source.family.head)}

    def rounded(name: str) -> torch.Tensor:
        tensor = job.tensor(name)
        if tensor.dim() == 1 or name == f"{source.family.positions}.weight":
            return tensor
        found = in_small_groups(tensor, 8 if name in whole else bits, ())
        return (found.scales.repeat_interleave(found.group, 1) * found.codes)[:, : found.columns]

    register()
    export_checkpoint(tmp_path / "rounded", Export(source, job.plan, rounded))
    model, ids = AutoModelForCausalLM.from_pretrained(tmp_path / "rounded").eval(), tokens(1, 24)
    with torch.inference_mode():
        expected = model(ids).logits[0].numpy()
    runner = OnnxRunner(tmp_path / "onnx" / "model.onnx", max_batch=1, max_length=32, threads=1)
    found = runner.prefill(0, ids[0].numpy(), "all")
    assert np.abs(found - expected).max() < 1e-3
