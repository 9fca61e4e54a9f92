"""Calibration text that the dense model writes itself, for when no text is at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from compressor.progress import Progress
from compressor.source import Source

_BATCH = 32


def write_samples(
    source: Source, *, windows: int, length: int, seed: int, progress: Progress
) -> torch.Tensor:
    """[windows, length] tokens sampled at temperature 1 from the model's own distribution.

    A sample that ends (end-of-text) goes on with a new text, as in packed training data. Prompts are
    single tokens: the begin-of-text token where there is one, else tokens drawn uniformly.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    rows = []
    with progress.stage("calibrate: the model writes its own text", -(-windows // _BATCH) * length) as bar:
        for start in range(0, windows, _BATCH):
            count = min(_BATCH, windows - start)
            rows.append(_sample(model, _prompts(source, count, generator), length, generator, bar.advance))
    return torch.cat(rows)


def _prompts(source: Source, count: int, generator: torch.Generator) -> torch.Tensor:
    bos = source.config.get("bos_token_id")
    if isinstance(bos, int):
        return torch.full((count, 1), bos)
    return torch.randint(source.shape.vocab_size, (count, 1), generator=generator)


@torch.inference_mode()
def _sample(
    model: Callable[..., Any],
    tokens: torch.Tensor,
    length: int,
    generator: torch.Generator,
    advance: Callable[[float], None],
) -> torch.Tensor:
    past, inputs = None, tokens
    while tokens.shape[1] < length:
        out = model(input_ids=inputs, past_key_values=past, use_cache=True, logits_to_keep=1)
        past = out.past_key_values
        inputs = torch.multinomial(out.logits[:, -1].float().softmax(-1), 1, generator=generator)
        tokens = torch.cat([tokens, inputs], 1)
        advance(1)
    return tokens
