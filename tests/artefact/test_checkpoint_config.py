"""Folders that are no whole float model are refused for what they are; odd float ones are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lathe.artefact.errors import UserError
from lathe.compressor.evaluate.compare import load_model
from lathe.compressor.model.checkpoint import open_checkpoint, open_config
from support.compress_command import lathe
from support.tiny_llama import checkpoint

WEIGHTS, PROJECTION = "model.safetensors", "model.layers.0.self_attn.q_proj"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "tiny", num_hidden_layers=1).path


def config(path: Path, **changes: Any) -> None:
    document = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps(document))


ADAPTERS = {
    "config and safetensors": ("adapter_config.json", "adapter_model.safetensors"),
    "config and .bin": ("adapter_config.json", "adapter_model.bin"),
    "config alone": ("adapter_config.json",),
    "weights alone": ("adapter_model.safetensors",),
}


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_c10_an_adapter_is_refused_with_its_remedy(
    model: Path, tmp_path: Path, kind: str, alone: bool
) -> None:
    if alone:
        (model / "config.json").unlink()
        (model / WEIGHTS).unlink()
    for name in ADAPTERS[kind]:
        (model / name).write_text("{}")
    what = "is an adapter" if alone else "has an adapter .* beside the model"
    for open_model in (open_checkpoint, open_config):
        with pytest.raises(UserError, match=f"{what}.*{ADAPTERS[kind][0]}.*merge_and_unload"):
            open_model(str(model))
    commands = (
        ("compress", str(model), "--keep", "70%", "-o", str(tmp_path / "out")),
        ("plan", str(model), "--keep", "70%"),
        ("export", str(model), "-o", str(tmp_path / "out")),
        ("evaluate", str(model), "--text", str(tmp_path / "text.txt")),
    )
    for command in commands:
        done = lathe(*command)
        assert done.exit_code == 1
        assert "merge_and_unload" in done.stderr, command
    assert not list(tmp_path.glob("out*"))


QUANTIZED = {
    "GPTQ": (f"{PROJECTION}.qweight", f"{PROJECTION}.qzeros", f"{PROJECTION}.scales", f"{PROJECTION}.g_idx"),
    "AWQ": (f"{PROJECTION}.qweight", f"{PROJECTION}.qzeros", f"{PROJECTION}.scales"),
    "bitsandbytes": (f"{PROJECTION}.weight.absmax", f"{PROJECTION}.weight.quant_map"),
    "compressed-tensors": (f"{PROJECTION}.weight_packed", f"{PROJECTION}.weight_scale"),
    "HQQ": (f"{PROJECTION}.W_q",),
}


@pytest.mark.parametrize("kind", QUANTIZED)
def test_c15_quantized_tensors_without_a_config_are_called_so(model: Path, kind: str) -> None:
    tensors = load_file(model / WEIGHTS)
    if not QUANTIZED[kind][0].startswith(f"{PROJECTION}.weight."):
        del tensors[f"{PROJECTION}.weight"]
    for name in QUANTIZED[kind]:
        tensors[name] = torch.zeros(8, 8, dtype=torch.int32)
    save_file(tensors, model / WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match=f"is a quantized checkpoint .*{kind}.*{PROJECTION}") as caught:
        open_checkpoint(str(model))
    assert "unquantized model" in str(caught.value)


@pytest.mark.parametrize(("file", "kind"), [("quantize_config.json", "GPTQ"), ("quant_config.json", "AWQ")])
def test_c15_a_quantizers_file_says_why_tensors_are_lacking(model: Path, file: str, kind: str) -> None:
    (model / file).write_text("{}")
    open_checkpoint(str(model))  # all floats are there: it is what transformers loads
    tensors = load_file(model / WEIGHTS)
    del tensors[f"{PROJECTION}.weight"]
    save_file(tensors, model / WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match=rf"is a quantized checkpoint \({kind}: it has {file}\)"):
        open_checkpoint(str(model))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantized checkpoint \(gptq\)"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantized checkpoint"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "quantized checkpoint"),
    ],
)
def test_c15_a_quantized_config_is_called_so(model: Path, setting: dict[str, Any], words: str) -> None:
    config(model, **setting)
    with pytest.raises(UserError, match=words):
        open_checkpoint(str(model))


def test_c15_floats_that_were_loaded_from_a_gguf_file_are_floats(model: Path) -> None:
    config(model, quantization_config={"quant_method": "gguf"})
    source = open_checkpoint(str(model))
    assert "quantization_config" not in source.config
    theirs = load_model(str(model)).state_dict()
    assert all(torch.equal(source.tensor(name), theirs[name]) for name in source.names())


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", ["torch.float16", "float16", "half"])
def test_c15_data_types_may_be_written_with_their_module(model: Path, key: str, value: str) -> None:
    config(model, **({"dtype": None} | {key: value}))
    source = open_checkpoint(str(model))
    assert source.dtype == torch.float16
    theirs = load_model(str(model)).state_dict()
    assert all(torch.equal(source.tensor(name), theirs[name]) for name in source.names())


def test_c15_a_data_type_that_there_is_not_is_named(model: Path) -> None:
    config(model, dtype="torch.float3")
    with pytest.raises(UserError, match="float3"):
        open_checkpoint(str(model))


@pytest.mark.parametrize("name", ["lm_head.bias", "score.weight", "model.layers.0.self_attn.sinks"])
def test_floats_without_a_place_are_refused(model: Path, name: str) -> None:
    tensors = load_file(model / WEIGHTS)
    save_file(tensors | {name: torch.ones(4)}, model / WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match=f"`{name}` that its model type has no place for"):
        open_checkpoint(str(model))


def test_frequencies_that_old_checkpoints_hold_are_left_out(model: Path) -> None:
    tensors = load_file(model / WEIGHTS)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, model / WEIGHTS, {"format": "pt"})
    open_checkpoint(str(model))
