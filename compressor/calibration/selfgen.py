"""Text that the dense model writes itself: for when none is at hand, or more is wanted than there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from compressor.progress import Progress
from compressor.source import Source

_BATCH = 32
_PASSAGE = 32


def write_samples(
    source: Source, *, windows: int, length: int, seed: int, progress: Progress
) -> torch.Tensor:
    """[windows, length] tokens sampled at temperature 1 from the model's own distribution.

    A sample that ends (end-of-text) goes on with a new text, as in packed training data. Prompts are
    single tokens: the begin-of-text token where there is one, else tokens drawn uniformly.
    """
    generator = torch.Generator().manual_seed(seed)
    prompts = _prompts(source, windows, generator)
    return _write(source, prompts, length, generator, progress, "calibrate: the model writes its own text")


def continue_text(
    source: Source, windows_BT: torch.Tensor, *, seed: int, progress: Progress
) -> torch.Tensor:
    """[B, T] tokens like those given: a passage from each window, which the model goes on from at
    temperature 1."""
    count, length = windows_BT.shape
    passage = min(_PASSAGE, length // 4)
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(length - passage, (count, 1), generator=generator)
    prompts = windows_BT.gather(1, starts + torch.arange(passage))
    return _write(source, prompts, length, generator, progress, "reform: the model writes more text")


def _write(
    source: Source,
    prompts: torch.Tensor,
    length: int,
    generator: torch.Generator,
    progress: Progress,
    title: str,
) -> torch.Tensor:
    from compressor.modeling.load import load_model

    model = load_model(source.path)
    batches = prompts.split(_BATCH)
    with progress.stage(title, len(batches) * (length - prompts.shape[1])) as bar:
        rows = [_sample(model, part, length, generator, bar.advance) for part in batches]
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
