"""Scoring any checkpoint, dense or compressed, with the code that reports use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from compressor.calibration.tokens import pack_windows
from compressor.errors import UserError
from compressor.evaluate.perplexity import quality
from compressor.modeling import register


def score(model: str, text: str, window: int, most: int = 0) -> dict[str, Any]:
    """{"model", "perplexity", "loss", "tokens"} of a checkpoint on a text.

    Raises:
        UserError: the model or text cannot be read, or the text is shorter than a window.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (Path(model) / "config.json").is_file():
        raise UserError(f"{model} is not a checkpoint directory", "It must hold config.json and safetensors.")
    register()
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except Exception as error:
        raise UserError(f"cannot load the tokenizer of {model}: {error}") from None
    windows = pack_windows(tokenizer, text, window)
    if not len(windows):
        raise UserError(
            f"{text} is shorter than one window of {window} tokens", "Give more text or a smaller --window."
        )
    try:
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    except Exception as error:
        raise UserError(f"cannot load {model}: {error}") from None
    result = quality(loaded, windows[:most] if most else windows)
    return {"model": model, "perplexity": result.perplexity, "loss": result.loss, "tokens": result.tokens}
