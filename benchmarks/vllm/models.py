"""The models that are served."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

from benchmarks.latency.shapes import write_shape
from benchmarks.latency.targets import made_up_plan
from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.export import Export
from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.export.vllm import export_vllm
from lathe.compressor.model.checkpoint import open_checkpoint, open_config

HELD_OUT = "demo/heldout.txt"
DEMO = "demo/model"


def random_model(shape: str, directory: Path) -> Path:
    """A bfloat16 checkpoint with random weights and the demo model's tokenizer."""
    path = write_shape(shape, directory)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(path, dtype=torch.bfloat16, eos_token_id=None, bos_token_id=None)
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(path)
    AutoTokenizer.from_pretrained(DEMO).save_pretrained(path)
    return path


def uneven_subnet(model: Path, keep: float, directory: Path) -> Path:
    """A subnet of a random model, random itself.

    Its plan comes from made-up sensitivities, because those of a random model mean nothing: they
    prune heads, groups, channels and blocks of unequal worth.
    """
    source = open_config(str(model))
    plan = made_up_plan(source, keep)
    sizes = dict(pruned_tensors(source.shape, plan))
    out = directory / f"{model.name}-subnet"
    export_vllm(out, Export(source, plan, lambda name: 0.02 * torch.randn(sizes[name])))
    return out


def trained_subnet(model: Path, keep: str, directory: Path, tokens: int) -> Path:
    """What `compress` makes of a model."""
    out = directory / f"{model.name}-subnet"
    _lathe(
        "compress",
        str(model),
        "-o",
        str(out),
        "--keep",
        keep,
        "--export",
        "checkpoint,vllm",
        "--calibration",
        HELD_OUT,
        "--calibration-tokens",
        str(tokens),
    )
    return out


def idle_layers(shape: str, share: float, directory: Path) -> tuple[Path, Path]:
    """A random model whose last layers add nothing, and the subnet without them.

    That is a draft which is never wrong, at `share` of the layers.
    """
    path = random_model(shape, directory)
    model = LlamaForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    kept = round(share * len(model.model.layers))
    for layer in model.model.layers[kept:]:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    model.save_pretrained(path)
    source = open_checkpoint(str(path))
    dense = source.shape.dense_plan
    plan = Plan((*dense.layers[:kept], *[LayerShape(0, 0, 0)] * (len(dense) - kept)))
    out = directory / f"{shape}-draft"
    export_vllm(out, Export(source, plan, source.tensor))
    return path, out


def control(model: Path, directory: Path) -> Path:
    """The dense model as our own class: all widths kept."""
    out = directory / f"{model.name}-control"
    _lathe("export", str(model), "--to", "vllm", "-o", str(out))
    return out


def _lathe(*arguments: str) -> None:
    command: Sequence[str] = [sys.executable, "-m", "lathe", *arguments]
    subprocess.run(command, check=True, stdout=sys.stderr)
