"""The quantized export: what is written, what is refused, and what is left when writing fails."""

from __future__ import annotations

import errno
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.artefact.plan import Plan
from lathe.compressor.export import quantized
from lathe.compressor.export.checkpoint import export_checkpoint, write_model
from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.export.quantized import check_quantized, export_quantized
from lathe.compressor.model.checkpoint import Checkpoint
from support.compress_command import lathe
from support.tiny_llama import DENSE, checkpoint, plan, pruned

EVEN = plan(DENSE, DENSE, DENSE, DENSE)
UNEVEN = plan((0, 0, 32), (3, 3, 64), (0, 0, 0), (4, 2, 0))
ODD = plan((0, 0, 33), (3, 3, 17), (8, 4, 1), (4, 2, 0))
REPORT = {"format": "lathe-report/1", "perplexity": {"dense": 40.0, "subnet": 41.0}}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    return checkpoint(tmp_path / "dense", head_dim=32)


def artefact(directory: Path, source: Checkpoint, subnet: Plan) -> Path:
    export_checkpoint(directory, pruned(source, subnet))
    write_json(directory / "plan.json", subnet.to_json())
    write_json(directory / "report.json", REPORT)
    (directory / "onnx").mkdir()
    (directory / "onnx" / "model.onnx").write_bytes(b"the graph of the weights before quantization")
    return directory


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def test_an_artefact(tmp_path: Path, source: Checkpoint) -> None:
    given, out = artefact(tmp_path / "artefact", source, UNEVEN), tmp_path / "out"
    summary = export_quantized(str(given), out, scheme="w4a16")
    assert {file.name for file in out.iterdir()} == {
        "config.json",
        "configuration_lathe_llama.py",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "modeling_lathe_llama.py",
        "plan.json",
        "report.json",
        "tokenizer.json",
        "vllm_plugin",
    }
    before, after = read(given / "config.json"), read(out / "config.json")
    assert after.pop("quantization_config")["format"] == "pack-quantized"
    assert after == before
    assert Plan.load(out / "plan.json") == UNEVEN
    report = read(out / "report.json")
    assert report["quantization"].pop("measured").endswith("before quantization.")
    assert report == REPORT | {"quantization": summary}
    assert read(out / "manifest.json")["files"].keys() == {
        file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()
    } - {"manifest.json"}
    weights, dense = load_file(out / "model.safetensors"), load_file(given / "model.safetensors")
    for when, stored in (("before", dense), ("after", weights)):
        assert summary["weight_bytes"][when] == sum(tensor.nbytes for tensor in stored.values())
    assert 0.05 < summary["relative_error"]["median"] <= summary["relative_error"]["max"] < 0.12
    for name, tensor in dense.items():
        if tensor.dim() == 1 or "layers" not in name:
            assert torch.equal(weights[name], tensor)
        else:
            assert name not in weights
            assert weights[f"{name}_shape"].tolist() == list(tensor.shape)


def test_odd_widths_in_int8(tmp_path: Path, source: Checkpoint) -> None:
    given = artefact(tmp_path / "artefact", source, ODD)
    export_quantized(str(given), tmp_path / "out", scheme="w8a8")
    weights, dense = load_file(tmp_path / "out" / "model.safetensors"), load_file(given / "model.safetensors")
    matrices = [name for name, tensor in weights.items() if tensor.dtype == torch.int8]
    assert len(matrices) == 3 * 3 + 3 * 4
    for name in matrices:
        error = weights[name] * weights[f"{name}_scale"] - dense[name]
        assert error.norm() < 0.01 * dense[name].norm()


def test_a_dense_model(tmp_path: Path) -> None:
    """A control: everything in the source's dtype but the codes."""
    source = checkpoint(tmp_path / "dense", head_dim=32, dtype=torch.bfloat16, attention_bias=True)
    command = ("export", str(source.path), "--to", "vllm", "-o", str(tmp_path / "out"))
    done = lathe(*command, "--quantize", "w4a16", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["quantization"]["scheme"] == "w4a16"
    assert not (tmp_path / "out" / "report.json").exists()
    assert Plan.load(tmp_path / "out" / "plan.json") == EVEN
    weights = load_file(tmp_path / "out" / "model.safetensors")
    dtypes = {name: tensor.dtype for name, tensor in weights.items()}
    assert dtypes["model.layers.0.self_attn.q_proj.weight_scale"] == torch.bfloat16
    assert dtypes["model.layers.0.self_attn.q_proj.bias"] == torch.bfloat16
    assert dtypes["lm_head.weight"] == dtypes["model.norm.weight"] == torch.bfloat16


def test_shards(tmp_path: Path, source: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    given = str(artefact(tmp_path / "artefact", source, UNEVEN))
    export_quantized(given, tmp_path / "whole", scheme="w4a16")
    monkeypatch.setattr(quantized, "write_model", partial(write_model, max_shard_bytes=6000))
    export_quantized(given, tmp_path / "sharded", scheme="w4a16")
    index, found = read(tmp_path / "sharded" / "model.safetensors.index.json")["weight_map"], {}
    for shard in set(index.values()):
        found |= load_file(tmp_path / "sharded" / shard)
    assert len(set(index.values())) > 3
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert found.keys() == index.keys() == whole.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())


def test_every_tensor_is_read_once_in_order(
    tmp_path: Path, source: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, names, tensor = artefact(tmp_path / "artefact", source, UNEVEN), [], Checkpoint.tensor
    monkeypatch.setattr(Checkpoint, "tensor", lambda self, name: names.append(name) or tensor(self, name))
    export_quantized(str(given), tmp_path / "out", scheme="w4a16")
    assert names == [name for name, _ in pruned_tensors(source.shape, UNEVEN)]


@pytest.mark.parametrize("failure", ["full", "damaged"])
def test_a_write_that_fails_leaves_nothing(
    tmp_path: Path, source: Checkpoint, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    given = artefact(tmp_path / "artefact", source, UNEVEN)
    if failure == "full":
        calls = iter(range(3))  # the weights and the modelling files are there; the rest is not

        def full(_: int) -> None:
            if next(calls, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
    else:
        weights = load_file(given / "model.safetensors")
        weights["model.norm.weight"][0] = torch.nan
        save_file(weights, given / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="No space left on device|holds NaN or infinity"):
        export_quantized(str(given), tmp_path / "out", scheme="w4a16")
    assert {file.name for file in tmp_path.iterdir()} == {"dense", "artefact"}


def test_codes_are_aligned_in_the_file(tmp_path: Path, source: Checkpoint) -> None:
    """Readers map the file: a float must not begin where an odd number of int8 codes ends."""
    export_quantized(str(artefact(tmp_path / "artefact", source, ODD)), tmp_path / "out", scheme="w8a8")
    raw = (tmp_path / "out" / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    header.pop("__metadata__")
    for entry in header.values():
        assert entry["data_offsets"][0] % {"F32": 4, "I8": 1}[entry["dtype"]] == 0
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as handle:
        assert set(handle.keys()) == set(header)


@pytest.mark.parametrize(
    ("layer", "devices", "message"),
    [
        ((8, 4, 96), 1, None),
        ((0, 0, 32), 1, None),
        ((3, 3, 0), 1, None),
        ((4, 2, 64), 2, None),
        ((8, 4, 48), 1, r"no quantized kernels for layer 1 \(8 query heads, 4 KV heads, 48 FFN channels\)"),
        ((8, 4, 96), 2, "2 devices cannot share layer 1 .* in sizes that quantized kernels take"),
        ((2, 2, 64), 4, "4 devices cannot share layer 1 .* can be served with --tensor-parallel 1, 2"),
    ],
)
def test_widths_that_groups_divide(
    source: Checkpoint, layer: tuple[int, int, int], devices: int, message: str | None
) -> None:
    subnet = plan((0, 0, 0), layer)
    if message is None:
        check_quantized(source, subnet, "w4a16", devices)
        return
    with pytest.raises(UserError, match=message):
        check_quantized(source, subnet, "w4a16", devices)


def test_refusals(tmp_path: Path, source: Checkpoint) -> None:
    """One sentence, and not a byte written."""
    odd, done = artefact(tmp_path / "odd", source, ODD), tmp_path / "done"
    export_quantized(str(odd), done, scheme="w8a8")
    other = artefact(tmp_path / "other", source, UNEVEN)
    write_json(other / "plan.json", ODD.to_json())
    narrow = checkpoint(tmp_path / "narrow", head_dim=32, hidden_size=72)
    before = {file.name for file in tmp_path.iterdir()}
    refused = {
        (str(odd), "--to", "vllm", "--quantize", "w4a16"): "0 KV heads, 33 FFN channels)",
        (str(odd), "--to", "vllm", "--quantize", "w8a8", "--tensor-parallel", "2"): "cannot share layer 0",
        (str(odd), "--to", "vllm", "--quantize", "int4"): "onnx-int8, vllm-mixed, vllm-w4a16, vllm-w8a8",
        (str(odd), "--to", "checkpoint", "--quantize", "w8a8"): "no quantized export `checkpoint-w8a8`",
        (str(source.path), "--quantize", "w8a8"): "there is no quantized export `onnx-w8a8`",
        (str(done), "--to", "vllm", "--quantize", "w8a8"): "is a quantized checkpoint",
        (str(other), "--to", "vllm", "--quantize", "w8a8"): "layers.0.mlp.gate_proj.weight` in",
        (str(narrow.path), "--to", "vllm", "--quantize", "w4a16"): "no 4-bit kernels for a hidden size of 72",
    }
    for arguments, message in refused.items():
        result = lathe("export", *arguments, "-o", str(tmp_path / "out"))
        assert result.exit_code == 1
        assert message in result.stderr
    with pytest.raises(UserError, match="exists"):
        export_quantized(str(odd), done, scheme="w8a8")
    assert {file.name for file in tmp_path.iterdir()} == before
