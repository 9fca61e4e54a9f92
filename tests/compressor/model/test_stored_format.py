"""What `lathe plan` evaluates is what an int8 or int4 graph holds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch.testing import assert_close

from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.export.onnx.blockwise import Blockwise
from lathe.compressor.model.names import layer_prefix
from lathe.compressor.model.stored_format import FLOAT16, INT4, INT8, Format
from support.tiny_families import family_checkpoint, first_of_each, planned

CASES = ("llama, biased", "qwen3", "opt", "qwen3_moe", "gpt_oss")


def dequantized(stored: dict[str, torch.Tensor], name: str, columns: int, bits: int) -> torch.Tensor:
    """A matrix of the graph as [rows, columns], of experts one below the other."""
    codes = stored.get(f"{name}.codes.blocks", stored.get(f"{name}.codes"))
    scales = stored[f"{name}.scales"]
    assert codes is not None
    codes, scales = codes.reshape(scales.shape[:-1].numel(), -1), scales.flatten(0, -2)
    codes = torch.stack([codes & 15, codes >> 4], -1).flatten(1) if bits == 4 else codes
    values = (codes.float() - 2 ** (bits - 1)) * scales.repeat_interleave(
        codes.shape[1] // scales.shape[1], 1
    )
    return values[:, :columns]


def matrices(
    stored: dict[str, torch.Tensor], prefix: str, layer: dict[str, torch.Tensor], bits: int
) -> dict[str, torch.Tensor]:
    """The matrices of a layer as the graph has them, under the names of the checkpoint."""
    found: dict[str, torch.Tensor] = {}
    for name in (f"{prefix}qkv", *(prefix + key.removesuffix(".weight") for key in layer)):
        if f"{name}.scales" not in stored:
            continue
        parts = [f"self_attn.{part}_proj.weight" for part in "qkv"] if name.endswith("qkv") else []
        names = parts or [f"{name.removeprefix(prefix)}.weight"]
        values = dequantized(stored, name, layer[names[0]].shape[1], bits)
        found |= zip(names, values.split([len(layer[n]) for n in names]), strict=True)
    if f"{prefix}experts.down.scales" in stored:
        gate, down = layer["mlp.gate_proj.weight"], layer["mlp.down_proj.weight"]
        count = len(layer["mlp.router.weight"])
        channels = len(gate) // count
        pairs = dequantized(stored, f"{prefix}experts.gate_up", gate.shape[1], bits)
        pairs = pairs.unflatten(0, (count, -1, 2))[:, :channels]
        downs = dequantized(stored, f"{prefix}experts.down", down.shape[1] // count, bits)
        found["mlp.gate_proj.weight"] = pairs[:, :, 0].flatten(0, 1)
        found["mlp.up_proj.weight"] = pairs[:, :, 1].flatten(0, 1)
        found["mlp.down_proj.weight"] = downs.unflatten(0, (count, -1)).transpose(0, 1).flatten(1)
    return found


@pytest.mark.parametrize("form", [INT8, INT4], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_a_layer_has_the_values_and_bytes_of_its_graph(tmp_path: Path, case: str, form: Format) -> None:
    source = family_checkpoint(tmp_path / "dense", case)
    job = first_of_each(source, planned(source, "mixed"))
    export_onnx(tmp_path, job, partial(Blockwise, bits=form.bits))
    model = onnx.load(tmp_path / "onnx" / "model.onnx")
    stored = {w.name: torch.tensor(numpy_helper.to_array(w)) for w in model.graph.initializer}
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
