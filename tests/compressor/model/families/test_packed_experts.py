"""Experts that a checkpoint has as MXFP4 are those that transformers makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from lathe.artefact.errors import UserError
from lathe.artefact.modeling.load import load_model
from lathe.compressor.evaluate import compare
from lathe.compressor.model.checkpoint import open_checkpoint
from support.family_checks import checkpoint_difference, logits, written
from support.tiny_families import family_checkpoint, planned, zeroed
from support.tiny_llama import tokens

STACKED = ("gate_up_proj", "down_proj")


def packed(directory: Path) -> tuple[Path, Path]:
    """A checkpoint with random packed experts, and the same as transformers unpacks it, in float32."""
    generator = torch.Generator().manual_seed(0)
    source = family_checkpoint(directory / "float", "gpt_oss")
    tensors = load_file(source.path / "model.safetensors")
    small, config = dict(tensors), json.loads((source.path / "config.json").read_text())
    for name in [name for name in tensors if name.endswith(STACKED)]:
        experts, inputs, outputs = tensors[name].shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), generator=generator)
        scales = torch.randint(120, 124, (experts, outputs, inputs // 32), generator=generator)
        del small[name]
        small |= {f"{name}_blocks": blocks.to(torch.uint8), f"{name}_scales": scales.to(torch.uint8)}
        tensors[name] = convert_moe_packed_tensors(
            blocks.to(torch.uint8), scales.to(torch.uint8), dtype=torch.float32
        ).contiguous()
    save_file(tensors, source.path / "model.safetensors", metadata={"format": "pt"})
    there = directory / "packed"
    there.mkdir()
    save_file(small, there / "model.safetensors", metadata={"format": "pt"})
    config |= {"quantization_config": {"quant_method": "mxfp4"}}
    (there / "config.json").write_text(json.dumps(config))
    (there / "tokenizer.json").write_text('{"version": "1.0"}')
    return there, source.path


def test_every_tensor_is_what_transformers_unpacks(tmp_path: Path) -> None:
    ours, theirs = (open_checkpoint(str(path)) for path in packed(tmp_path))
    assert list(ours.names()) == list(theirs.names())
    assert all(torch.equal(ours.tensor(name), theirs.tensor(name)) for name in ours.names())
    assert ours.layer(1).keys() == theirs.layer(1).keys()


@pytest.mark.parametrize("load", [load_model, lambda path: compare.load_model(str(path))])
def test_the_dense_model_is_loaded_as_floats(tmp_path: Path, load: Callable[[Path], Any]) -> None:
    ours, theirs = packed(tmp_path)
    ids = tokens(2, 20)
    assert (logits(load(ours), ids) - logits(load(theirs), ids)).abs().max() <= 2e-5


def test_its_subnet_is_that_of_the_unpacked_model(tmp_path: Path) -> None:
    ours, theirs = (open_checkpoint(str(path)) for path in packed(tmp_path))
    assert checkpoint_difference(tmp_path / "theirs", theirs, "mixed") <= 2e-5
    found, ids = written(tmp_path / "ours", ours, "mixed"), tokens(2, 60)
    assert (logits(found, ids) - logits(zeroed(theirs, planned(theirs, "mixed")), ids)).abs().max() <= 2e-5
    assert "quantization_config" not in json.loads((tmp_path / "ours" / "config.json").read_text())


def test_damaged_packed_experts_are_named(tmp_path: Path) -> None:
    path, _ = packed(tmp_path)
    tensors = load_file(path / "model.safetensors")
    name = "model.layers.1.mlp.experts.down_proj_scales"
    save_file(tensors | {name: torch.full_like(tensors[name], 255)}, path / "model.safetensors")
    with pytest.raises(UserError, match=f"`{name}` in .* holds NaN or infinity"):
        open_checkpoint(str(path)).layer(1)
    save_file({n: t for n, t in tensors.items() if n != name}, path / "model.safetensors")
    with pytest.raises(UserError, match=f"lacks the tensor `{name}`"):
        open_checkpoint(str(path))
    save_file(tensors | {name: tensors[name].float()}, path / "model.safetensors")
    with pytest.raises(UserError, match=f"`{name}` in .* holds F32 values"):
        open_checkpoint(str(path))
