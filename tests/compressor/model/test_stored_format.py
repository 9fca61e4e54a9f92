"""What `lathe plan` evaluates is what an int8 or int4 graph holds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.export.onnx.blockwise import Blockwise
from lathe.compressor.model.names import layer_prefix
from lathe.compressor.model.stored_format import FLOAT16, INT4, INT8, Format
from support.graph_matrices import matrices, stored_tensors
from support.tiny_families import family_checkpoint, first_of_each, planned

CASES = ("llama, biased", "qwen3", "opt", "qwen3_moe", "gpt_oss")


@pytest.mark.parametrize("form", [INT8, INT4], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_a_layer_has_the_values_and_bytes_of_its_graph(tmp_path: Path, case: str, form: Format) -> None:
    source = family_checkpoint(tmp_path / "dense", case)
    job = first_of_each(source, planned(source, "mixed"))
    export_onnx(tmp_path, job, partial(Blockwise, bits=form.bits))
    stored = stored_tensors(tmp_path / "onnx" / "model.onnx")
    for index in range(len(job.plan)):
        prefix = layer_prefix(index)
        listed = (name for name, _ in pruned_tensors(source.shape, job.plan))
        names = [name.removeprefix(prefix) for name in listed if name.startswith(prefix)]
        layer = {name: job.tensor(prefix + name) for name in names}
        (expected,), size = form.store([layer], source.dtype)
        for name, values in matrices(stored, prefix, layer, form.bits).items():
            assert_close(values, expected[name], rtol=0, atol=0)
            assert not values.equal(layer[name])
        changed = {name for name in names if not expected[name].equal(layer[name].to(source.dtype).float())}
        assert changed == set(matrices(stored, prefix, layer, form.bits))
        kept = {n: v for n, v in stored.items() if n.startswith(prefix) and v.dtype != torch.int64}
        assert size == sum(value.nbytes for value in kept.values())
        assert size <= form.most_bytes([layer])


def test_float16_takes_two_bytes_a_value() -> None:
    layer = {"self_attn.o_proj.weight": torch.rand(4, 6), "norm.weight": torch.rand(5)}
    (stored,), size = FLOAT16.store([layer], torch.bfloat16)
    assert size == FLOAT16.most_bytes([layer]) == 2 * 29
    assert all(value.equal(layer[name].bfloat16().float()) for name, value in stored.items())
