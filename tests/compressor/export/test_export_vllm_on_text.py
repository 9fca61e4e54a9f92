"""Rounding for vLLM on calibration text by the command: what it writes, and that it moves the model less."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from lathe.artefact.atomic_files import write_json
from lathe.artefact.modeling import register
from lathe.artefact.plan import Plan
from lathe.artefact.tokenizer import open_tokenizer
from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.export.compressed_tensors import SCHEME_OF
from lathe.compressor.model.checkpoint import open_checkpoint
from support.compress_command import Tiny, lathe, make_tiny
from support.tiny_llama import pruned


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("on-text"), dtype="bfloat16", head_dim=32)


def export(tiny: Tiny, out: Path, scheme: str, *options: str, model: Path | None = None) -> dict[str, Any]:
    text = ("--calibration", str(tiny.text), "--calibration-tokens", "1024")
    target = ("--to", "vllm", "--quantize", scheme, "-o", str(out), "--json")
    done = lathe("export", str(model or tiny.model), *target, *(() if options == ("nearest",) else text))
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)["quantization"]
    return found


@pytest.mark.parametrize("scheme", ["w4a16", "w8a8"])
def test_codes_have_the_layout_of_the_scheme(tiny: Tiny, tmp_path: Path, scheme: str) -> None:
    said = export(tiny, tmp_path / "text", scheme)
    assert said["calibration"]["text"] == str(tiny.text)
    assert "calibration" not in export(tiny, tmp_path / "nearest", scheme, "nearest")
    text, nearest = (load_file(tmp_path / name / "model.safetensors") for name in ("text", "nearest"))
    layouts = [{name: (t.shape, t.dtype) for name, t in found.items()} for found in (text, nearest)]
    assert layouts[0] == layouts[1]
    assert all(bool((t > 0).all()) for name, t in text.items() if name.endswith("_scale"))
    codes = [name for name, t in text.items() if t.dtype in (torch.int32, torch.int8)]
    assert codes
    assert all(not torch.equal(text[name], nearest[name]) for name in codes)
    rest = [name for name in text if name not in codes and not name.endswith(("_scale", "_shape"))]
    assert all(torch.equal(text[name], nearest[name]) for name in rest)


@torch.no_grad()
def logits(directory: Path, tokens: torch.Tensor) -> torch.Tensor:
    """Of the values that the codes stand for."""
    register()
    config = AutoConfig.from_pretrained(directory)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config).float().eval()
    stored, values = load_file(directory / "model.safetensors"), dict[str, torch.Tensor]()
    for name, tensor in stored.items():
        if name.endswith("_packed"):
            codes = (tensor[..., None] >> torch.arange(0, 32, 4) & 15).flatten(1) - 8
            scales = stored[name.replace("_packed", "_scale")].float()
            values[name.removesuffix("_packed")] = codes * scales.repeat_interleave(32, 1)
        elif not name.endswith(("_scale", "_shape")):
            values[name] = tensor.float()
    model.load_state_dict(values, strict=False)
    return model(tokens).logits


def test_the_model_moves_less_than_by_rounding_to_nearest(tiny: Tiny, tmp_path: Path) -> None:
    export(tiny, tmp_path / "text", "w4a16")
    export(tiny, tmp_path / "nearest", "w4a16", "nearest")
    words = tiny.text.read_text()[-2000:]
    tokens = torch.tensor([open_tokenizer(tiny.model)(words)["input_ids"][:256]])
    dense = logits(tiny.model, tokens)
    text, nearest = ((logits(tmp_path / n, tokens) - dense).norm() for n in ("text", "nearest"))
    assert text < 0.8 * nearest


def test_it_is_the_same_again(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("one", "other"):
        export(tiny, tmp_path / name, "w4a16")
    one, other = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "other"))
    assert one == other


def test_an_artefact_with_bits_by_block(tiny: Tiny, tmp_path: Path) -> None:
    source = open_checkpoint(str(tiny.model))
    dense = source.shape.dense_plan
    narrow = replace(dense[0], ffn=32, ffn_bits=4)
    plan = Plan((narrow, replace(dense[1], attention_bits=8)))
    export_checkpoint(tmp_path / "artefact", pruned(source, plan))
    write_json(tmp_path / "artefact" / "plan.json", plan.to_json())
    said = export(tiny, tmp_path / "out", "mixed", model=tmp_path / "artefact")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    packed = {name.split(".weight")[0] for name in weights if name.endswith("_packed")}
    eight = {name.split(".weight")[0] for name, t in weights.items() if t.dtype == torch.int8}
    assert packed == {f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")}
    assert eight == {f"model.layers.1.self_attn.{name}_proj" for name in "qkvo"}
    assert set(said["formats"]) == {"float", *(SCHEME_OF[bits].name for bits in (4, 8))}


def test_text_where_none_is_read(tiny: Tiny, tmp_path: Path) -> None:
    target = ("--to", "vllm", "-o", str(tmp_path / "out"), "--calibration", str(tiny.text))
    done = lathe("export", str(tiny.model), *target)
    assert done.exit_code == 1
    assert "reads no calibration text" in done.stderr
    missing = ("--to", "vllm", "-o", str(tmp_path / "out"), "--calibration", str(tmp_path / "none.txt"))
    done = lathe("export", str(tiny.model), *missing, "--quantize", "w8a8")
    assert done.exit_code == 1
    assert "none.txt" in done.stderr
    assert not (tmp_path / "out").exists()
