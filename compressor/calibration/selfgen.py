"""Text that the dense model writes itself: for when none is at hand, or more is wanted than there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from compressor.forward import embed
from compressor.plan import ModelShape
from compressor.progress import Progress
from compressor.room import Room
from compressor.source import Source

if TYPE_CHECKING:
    from compressor.layered import LayeredModel

_BATCH, _CACHE_BYTES = 32, 2**30
"""Samples that are written together, and what their keys and values may take."""
_PASSAGE = 32
_OWN, _MORE = "calibrate: the model writes its own text", "reform: the model writes more text"


def write_samples(
    source: Source, *, windows: int, length: int, seed: int, progress: Progress, room: Room | None = None
) -> torch.Tensor:
    """[windows, length] tokens sampled at temperature 1 from the model's own distribution.

    A sample that ends (end-of-text) goes on with a new text, as in packed training data. Prompts are
    single tokens: the begin-of-text token where there is one, else tokens drawn uniformly.
    """
    generator = torch.Generator().manual_seed(seed)
    prompts = _prompts(source, windows, generator)
    return _write(source, prompts, length, generator, progress, room, _OWN)


def continue_text(
    source: Source, windows_BT: torch.Tensor, *, seed: int, progress: Progress, room: Room | None = None
) -> torch.Tensor:
    """[B, T] tokens like those given: a passage from each window, which the model goes on from at
    temperature 1."""
    count, length = windows_BT.shape
    passage = min(_PASSAGE, length // 4)
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(length - passage, (count, 1), generator=generator)
    prompts = windows_BT.gather(1, starts + torch.arange(passage))
    return _write(source, prompts, length, generator, progress, room, _MORE)


def cache_bytes(shape: ModelShape, length: int) -> int:
    """Keys and values of the samples that are written together."""
    return _together(shape, length) * length * shape.kv_bytes_per_token(shape.dense_plan, 4)


def _together(shape: ModelShape, length: int) -> int:
    one = length * shape.kv_bytes_per_token(shape.dense_plan, 4)
    return max(1, min(_BATCH, _CACHE_BYTES // one))


def _write(
    source: Source, prompts: torch.Tensor, length: int, generator: torch.Generator, progress: Progress,
    room: Room | None, title: str,
) -> torch.Tensor:  # fmt: skip
    from compressor.layered import LayeredModel

    dense, batches = LayeredModel.open(source, room or Room()), prompts.split(_together(source.shape, length))
    with progress.stage(title, len(batches) * (length - prompts.shape[1])) as bar:
        rows = [_sample(dense, part, length, generator, bar.advance) for part in batches]
    return torch.cat(rows)


@torch.inference_mode()
def _sample(
    dense: LayeredModel, tokens: torch.Tensor, length: int, generator: torch.Generator,
    advance: Callable[[float], None],
) -> torch.Tensor:  # fmt: skip
    from transformers import DynamicCache

    caches, start = [DynamicCache() for _ in dense.layers], 0
    while (end := tokens.shape[1]) < length:
        hidden = embed(dense.embedding, tokens[:, start:], start)
        for index, cache in enumerate(caches):
            hidden = dense.runner.at(index).layer(dense.layers[index], hidden, (cache, start))
        likely = dense.head.logprobs(hidden[:, -1:])[:, 0].exp()
        tokens = torch.cat([tokens, torch.multinomial(likely, 1, generator=generator)], 1)
        start = end
        advance(1)
    return tokens


def _prompts(source: Source, count: int, generator: torch.Generator) -> torch.Tensor:
    bos = source.config.get("bos_token_id")
    if isinstance(bos, int):
        return torch.full((count, 1), bos)
    return torch.randint(source.shape.vocab_size, (count, 1), generator=generator)
