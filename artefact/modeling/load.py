"""Checkpoints as transformers loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from lathe.artefact.transformers_config import quietly, reference_config


def load_model(directory: str | Path) -> Any:
    """Returns a checkpoint's model in float32, ready to run."""
    config = reference_config(directory)
    with quietly():
        return AutoModelForCausalLM.from_pretrained(directory, config=config, dtype=torch.float32).eval()
