"""Checkpoints as transformers loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging
from transformers.utils.quantization_config import Mxfp4Config


def load_model(directory: str | Path) -> Any:
    """A checkpoint in float32, ready to run; our stages tell of progress, not transformers."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, **_unpacking(directory)
        ).eval()
    finally:
        if shown:
            logging.enable_progress_bar()


def _unpacking(directory: str | Path) -> dict[str, Any]:
    """The option with which transformers loads a checkpoint whose experts are in MXFP4 as floats."""
    quantized = getattr(AutoConfig.from_pretrained(directory), "quantization_config", None) or {}
    packed = quantized.get("quant_method") == "mxfp4"
    return {"quantization_config": Mxfp4Config(dequantize=True)} if packed else {}
