"""The two models that everybody gets: a dense one, random or given, and an uneven subnet of it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from benchmarks.latency.shapes import write_shape
from benchmarks.latency.targets import made_up_plan
from lathe.artefact.atomic_files import write_json
from lathe.artefact.manifest import write_manifest
from lathe.artefact.plan import Plan
from lathe.compressor.export import Export, exporters
from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.model.checkpoint import open_checkpoint

_TOKENIZER = "demo/model"
_SPREAD = 1.4
"""Of what a matrix makes of a normalised row: enough for attention to look somewhere and logits to differ."""


def dense_model(shape: str, directory: Path) -> Path:
    """A float32 checkpoint that ends no answer by itself; kept if it is there.

    `shape` is a checkpoint's directory, or one of random weights, which has the demo model's tokenizer.
    """
    path = directory / Path(shape).name
    if (path / "model.safetensors").is_file():
        return path
    if Path(shape).is_dir():
        model = AutoModelForCausalLM.from_pretrained(shape, dtype=torch.float32)
        for settings in (model.config, model.generation_config):
            settings.eos_token_id = None
        model.save_pretrained(path)
        AutoTokenizer.from_pretrained(shape).save_pretrained(path)
    else:
        write_shape(shape, directory)
        torch.manual_seed(0)
        config = AutoConfig.from_pretrained(path, eos_token_id=None, bos_token_id=None)
        config.initializer_range = _SPREAD * config.hidden_size**-0.5
        LlamaForCausalLM(config).save_pretrained(path)
        AutoTokenizer.from_pretrained(_TOKENIZER).save_pretrained(path)
    return path


def subnet(dense: Path, keep: float, directory: Path) -> Path:
    """An artefact with an uneven plan that keeps a share of the dense model's decoder parameters.

    Made-up sensitivities shape the plan, and the first heads and channels stay.
    """
    out = directory / f"{dense.name}-keep-{keep:g}"
    if (out / "manifest.json").is_file():
        return out
    source = open_checkpoint(str(dense))
    plan = made_up_plan(source, keep)
    sizes = dict(pruned_tensors(source.shape, plan))
    job = Export(source, plan, lambda name: _first(source.tensor(name), sizes[name]))
    out.mkdir(parents=True, exist_ok=True)
    for name in ("checkpoint", "onnx"):
        exporters.get(name).write(out, job)
    write_json(out / "plan.json", plan.to_json())
    write_manifest(out)
    return out


def plan_of(model: Path) -> Plan:
    """The plan of a subnet, or of a dense model."""
    path = model / "plan.json"
    return Plan.load(path) if path.is_file() else open_checkpoint(str(model)).shape.dense_plan


def _first(tensor: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    return tensor[tuple(slice(size) for size in dims)].contiguous()
