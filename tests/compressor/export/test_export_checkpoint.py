"""Checkpoints: shapes, values, companions, shards, and loading where Lathe is not installed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from lathe.artefact.errors import UserError
from lathe.artefact.modeling import register
from lathe.compressor.export import Export, exporters
from lathe.compressor.export.checkpoint import write_checkpoint
from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.model.checkpoint import Checkpoint
from support.tiny_llama import DENSE, PLANS, VARIANTS, checkpoint, plan, pruned, reference, tokens

LOAD = """
import sys
sys.modules["lathe"] = None
import torch
from transformers import AutoConfig, AutoModelForCausalLM
path, ids, out = sys.argv[1:]
try:
    AutoConfig.from_pretrained(path, trust_remote_code=False)
except ValueError as error:
    assert "lathe_llama" in str(error) or "trust_remote_code" in str(error), error
else:
    raise SystemExit("transformers knows lathe_llama: Lathe is importable")
model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True).eval()
with torch.no_grad():
    torch.save(model(torch.load(ids)).logits, out)
model.save_pretrained(sys.argv[1] + "-again")
"""


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    return checkpoint(tmp_path / "dense")


def write(directory: Path, source: Checkpoint, name: str, **options: int) -> Path:
    job = pruned(source, PLANS[name])
    write_checkpoint(directory, source, job.plan, job.tensor, **options)
    return directory


def load(path: Path) -> torch.nn.Module:
    register()
    return AutoModelForCausalLM.from_pretrained(path).eval()


@torch.no_grad()
def logits(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).logits


@pytest.mark.parametrize("variant", VARIANTS)
def test_checkpoint_loads_and_equals_the_zeroed_dense_model(tmp_path: Path, variant: str) -> None:
    source, ids = checkpoint(tmp_path / "dense", **VARIANTS[variant]), tokens(2, 20)
    model = load(write(tmp_path / "out", source, "mixed"))
    expected = logits(reference(source, PLANS["mixed"]), ids)
    torch.testing.assert_close(logits(model, ids), expected, atol=2e-5, rtol=0)


def test_files_hold_the_planned_shapes(tmp_path: Path, source: Checkpoint) -> None:
    out = write(tmp_path / "out", source, "mixed")
    with safe_open(out / "model.safetensors", framework="pt") as handle:
        stored = {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118
    assert stored == dict(pruned_tensors(source.shape, PLANS["mixed"]))
    assert {file.name for file in out.iterdir()} == {
        "config.json",
        "configuration_lathe_llama.py",
        "generation_config.json",
        "model.safetensors",
        "modeling_lathe_llama.py",
        "tokenizer.json",
    }


def test_config_is_sparse_and_names_dropped_blocks(tmp_path: Path, source: Checkpoint) -> None:
    config = json.loads((write(tmp_path / "out", source, "mixed") / "config.json").read_text())
    assert config["per_layer_config"] == {
        "0": {"intermediate_size": 33},
        "1": {"num_attention_heads": 3, "num_key_value_heads": 3, "intermediate_size": 17},
        "3": {"num_attention_heads": 4, "num_key_value_heads": 2},
    }
    assert config["dropped_blocks"] == {"attention": [0, 2], "ffn": [2, 3]}
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (8, 4, 16)


def test_loads_without_lathe(tmp_path: Path, source: Checkpoint) -> None:
    out, ids = write(tmp_path / "out", source, "mixed"), tokens(2, 20)
    torch.save(ids, tmp_path / "ids.pt")
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOAD, str(out), str(tmp_path / "ids.pt"), str(tmp_path / "logits.pt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = logits(load(out), ids)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), expected)
    assert torch.equal(logits(load(Path(f"{out}-again")), ids), expected)


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
@torch.no_grad()
def test_the_whole_model_compiles_once_for_prompts_and_once_for_decoding(
    tmp_path: Path, source: Checkpoint
) -> None:
    model, ids, graphs = load(write(tmp_path / "uneven", source, "mixed")), tokens(1, 12), []

    def backend(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> torch.nn.Module:
        graphs.append(graph)
        return graph

    def logits(forward: Callable[..., Any]) -> list[torch.Tensor]:
        prompt = forward(ids)
        step = forward(ids[:, :1], past_key_values=prompt.past_key_values)
        return [prompt.logits, step.logits]

    expected = logits(model)
    torch._dynamo.reset()
    found = logits(torch.compile(model, backend=backend, fullgraph=True))
    assert len(graphs) == 2
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_shards_split_between_tensors_and_load(tmp_path: Path, source: Checkpoint) -> None:
    whole, limit = write(tmp_path / "whole", source, "mixed"), 40_000
    sharded = write(tmp_path / "sharded", source, "mixed", max_shard_bytes=limit)
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert shards == [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    assert 3 < len(shards) < 10
    assert index["metadata"]["total_size"] == 4 * source.shape.parameters(PLANS["mixed"])
    assert not (sharded / "model.safetensors").exists()
    ids = tokens(1, 10)
    expected = logits(load(whole), ids)
    assert torch.equal(logits(load(sharded), ids), expected)
    write(sharded, source, "mixed")
    assert [file.name for file in sharded.glob("*.safetensors*")] == ["model.safetensors"]
    assert torch.equal(logits(load(sharded), ids), expected)


def test_values_are_rounded_to_the_dtype_of_the_source(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "dense", dtype=torch.bfloat16)
    job = pruned(source, PLANS["mixed"])
    precise = Export(source, job.plan, lambda name: job.tensor(name) * 1.001)
    write_checkpoint(tmp_path / "out", source, precise.plan, precise.tensor)
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as handle:
        for name in handle.keys():  # noqa: SIM118
            assert torch.equal(handle.get_tensor(name), precise.tensor(name).bfloat16())
    assert load(tmp_path / "out").dtype == torch.bfloat16


def test_companions_travel(tmp_path: Path, source: Checkpoint) -> None:
    for name in ("tokenizer_config.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "LICENSE"):
        (source.path / name).write_text(name)
    (source.path / "additional_chat_templates").mkdir()
    (source.path / "additional_chat_templates" / "tools.jinja").write_text("x")
    (source.path / "pytorch_model.bin").write_text("stale")
    out = write(tmp_path / "out", source, "mixed")
    assert (out / "LICENSE").read_text() == "LICENSE"
    assert (out / "tokenizer.model").exists()
    assert (out / "additional_chat_templates" / "tools.jinja").exists()
    assert not (out / "pytorch_model.bin").exists()


def test_a_full_disk_is_named_and_leaves_nothing(
    tmp_path: Path, source: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"model\.safetensors \([\d,]+ bytes\): No space left on device"):
        write(tmp_path / "out", source, "mixed")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_tensor_of_another_shape_is_never_written(tmp_path: Path, source: Checkpoint) -> None:
    job = Export(source, PLANS["mixed"], source.tensor)
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.gate_proj"):
        write_checkpoint(tmp_path / "out", source, job.plan, job.tensor)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_dense_model_is_never_overwritten(source: Checkpoint) -> None:
    with pytest.raises(UserError, match="holds the dense model"):
        write(source.path, source, "mixed")
    assert (source.path / "config.json").exists()


def test_a_plan_of_another_depth_is_refused(tmp_path: Path, source: Checkpoint) -> None:
    with pytest.raises(UserError, match="the plan has 1 layers"):
        write_checkpoint(tmp_path / "out", source, plan(DENSE), source.tensor)


def test_exporters_are_found_by_name(tmp_path: Path, source: Checkpoint) -> None:
    assert {"checkpoint", "onnx"} <= set(exporters.known())
    for name in ("checkpoint", "onnx"):
        exporters.get(name).write(tmp_path / "out", pruned(source, PLANS["mixed"]))
    assert (tmp_path / "out" / "onnx" / "model.onnx").exists()
    assert (tmp_path / "out" / "config.json").exists()
    with pytest.raises(UserError, match="no exporter `onyx`"):
        exporters.get("onyx")
