"""The models that are served: random weights of a shape, subnets by the `compress` command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

from benchmarks.latency.shapes import write_shape

DEMO = Path("demo")


def random_model(shape: str, directory: Path) -> Path:
    """A bfloat16 checkpoint with random weights and the demo model's tokenizer."""
    path = write_shape(shape, directory)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(path, dtype=torch.bfloat16, eos_token_id=None, bos_token_id=None)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    AutoTokenizer.from_pretrained(DEMO / "model").save_pretrained(path)
    return path


def subnet(model: Path, keep: str, directory: Path, tokens: int) -> Path:
    """What `compress` makes of a model. Its time is not what is measured here, so little text is read."""
    out = directory / f"{model.name}-{keep.rstrip('%')}"
    lathe("compress", str(model), "-o", str(out), "--keep", keep, "--export", "checkpoint,vllm",
          "--calibration", str(DEMO / "heldout.txt"), "--calibration-tokens", str(tokens),
          "--evaluations", "1")  # fmt: skip
    return out


def control(model: Path, directory: Path) -> Path:
    """The dense model as our own class: all widths kept."""
    out = directory / f"{model.name}-control"
    lathe("export", str(model), "--to", "vllm", "-o", str(out))
    return out


def lathe(*arguments: str) -> None:
    command: Sequence[str] = [sys.executable, "-m", "compressor.cli.main", *arguments]
    subprocess.run(command, check=True, stdout=sys.stderr)
