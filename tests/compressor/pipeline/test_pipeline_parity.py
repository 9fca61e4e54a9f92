"""Whether engines agree, where float32 itself is off by much, and where it is not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lathe.artefact.errors import UserError
from lathe.artefact.modeling import register
from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.export.gguf.parity import compare
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.export.onnx.matrices import Plain
from lathe.compressor.pipeline.parity import check_parity
from support.tiny_llama import PLANS, checkpoint, pruned, tokens

OFF = 1e-3


class Off(torch.nn.Module):
    """A model whose logits are off at one position: always, or in float32 alone."""

    def __init__(self, model: Any, in_float64: bool) -> None:
        super().__init__()
        self.model, self.in_float64 = model, in_float64

    def forward(self, input_ids: torch.Tensor) -> Any:
        logits = self.model(input_ids=input_ids).logits
        if logits.dtype == torch.float32 or self.in_float64:
            logits[0, 20] += OFF * logits.std()
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize("in_float64", [False, True])
def test_logits_may_differ_by_what_float32_is_off_by_and_no_more(tmp_path: Path, in_float64: bool) -> None:
    register()
    source = checkpoint(tmp_path / "dense")
    job = pruned(source, PLANS["mixed"])
    export_checkpoint(tmp_path / "out", job)
    export_onnx(tmp_path / "out", job, Plain)
    model = Off(AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval(), in_float64)
    if in_float64:
        with pytest.raises(UserError, match=r"disagree by 0\.001 of"):
            check_parity(model, tmp_path / "out", tokens(64), source, None)
        return
    assert check_parity(model, tmp_path / "out", tokens(64), source, None) == pytest.approx(OFF, rel=0.05)
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_in_gguf_files_of_float32_the_same_holds_by_position() -> None:
    expected = np.random.default_rng(0).normal(size=(8, 50)).astype(np.float32)
    found, rounding = expected.copy(), np.zeros(8)
    found[3] += OFF
    with pytest.raises(UserError, match="disagree by"):
        compare(found, expected, {"F32"}, {})
    rounding[3] = OFF / 2
    assert compare(found, expected, {"F32"}, {}, lambda: rounding)["largest"] == pytest.approx(OFF, rel=0.05)
    with pytest.raises(UserError, match="disagree by"):
        compare(found, expected, {"F32"}, {}, lambda: np.roll(rounding, 1))
