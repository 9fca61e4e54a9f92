"""Checkpoints as transformers loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging


def load_model(directory: Path) -> Any:
    """A checkpoint in float32, ready to run; our stages tell of progress, not transformers."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    finally:
        if shown:
            logging.enable_progress_bar()
