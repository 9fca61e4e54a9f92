"""A LoRA adapter on an uneven model, against the same adapter merged into plain PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from answers import ask, distance, engine, prompts
from safetensors.torch import save_file
from test_vllm_parity import EXACT, TINY
from torch import nn
from transformers import AutoModelForCausalLM
from vllm.lora.request import LoRARequest

from lathe.artefact.modeling import register
from lathe.compressor.export.checkpoint import export_checkpoint
from support.tiny_llama import PLANS, checkpoint, pruned

RANK, ALPHA = 8, 16
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def save_and_merge(model: nn.Module, directory: Path) -> None:
    """Random low-rank changes of every projection: saved as PEFT saves them, and added to the weights."""
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in PROJECTIONS and isinstance(module, nn.Linear):
            down = torch.randn(RANK, module.in_features, generator=generator) * module.in_features**-0.5
            up = torch.randn(module.out_features, RANK, generator=generator) * 0.05
            tensors[f"base_model.model.{name}.lora_A.weight"] = down
            tensors[f"base_model.model.{name}.lora_B.weight"] = up
            module.weight.data += ALPHA / RANK * up @ down
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": [*PROJECTIONS],
        "bias": "none",
        "base_model_name_or_path": None,
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))


def test_an_adapter_is_what_it_is_merged(tmp_path: Path) -> None:
    source, subnet = checkpoint(tmp_path / "dense", **TINY), PLANS["mixed"]
    export_checkpoint(tmp_path / "out", pruned(source, subnet))
    register()
    plain, merged = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval() for _ in range(2)
    )
    save_and_merge(merged, tmp_path / "adapter")
    with engine(tmp_path / "out", enable_lora=True, max_lora_rank=RANK) as llm:
        request = LoRARequest("adapter", 1, str(tmp_path / "adapter"))
        adapted = ask(llm, prompts(), score_prompts=False, lora_request=request)
        without = ask(llm, prompts(), score_prompts=False)
    assert distance(merged, adapted).misses == []
    assert distance(merged, adapted).largest < EXACT
    assert distance(plain, without).largest < EXACT
    assert distance(plain, adapted).largest > 0.1
