"""Text that the dense model writes itself: for when none is at hand, or more is wanted than there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from lathe.artefact.plan import ModelShape
from lathe.compressor.calibration.kv_buffers import KVBuffers
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.device import CPU
from lathe.compressor.compute.progress import Progress
from lathe.compressor.compute.workers import LocalWorkers, Workers
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.embedding import embed

if TYPE_CHECKING:
    from lathe.compressor.model.decoder import LayeredModel

_BATCH, _CACHE_BYTES = 32, 2**30
"""Samples that are written together, and what their keys and values may take."""
_PASSAGE = 32
_STRIDE = 0x9E3779B97F4A7C15
"""Between the seeds of batches."""
_OWN, _MORE = "calibrate: the model writes its own text", "reconstruct: the model writes more text"


def write_samples(
    source: Checkpoint,
    *,
    windows: int,
    length: int,
    seed: int,
    progress: Progress,
    store: ArrayStore | None = None,
    workers: Workers | None = None,
) -> torch.Tensor:
    """Samples [windows, length] tokens at temperature 1 from the model's own distribution.

    After an end-of-text token a sample goes on with a new text, as in packed training data. Prompts are
    single tokens: the begin-of-text token where there is one, else tokens drawn uniformly.
    """
    prompts = _prompts(source, windows, torch.Generator().manual_seed(seed))
    return _write(source, prompts, length, seed, progress, store, workers, _OWN)


def continue_text(
    source: Checkpoint,
    windows_BT: torch.Tensor,
    *,
    seed: int,
    progress: Progress,
    store: ArrayStore | None = None,
    workers: Workers | None = None,
) -> torch.Tensor:
    """Samples [B, T] tokens like those given.

    The model continues a passage of each window at temperature 1.
    """
    count, length = windows_BT.shape
    passage = min(_PASSAGE, length // 4)
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(length - passage, (count, 1), generator=generator)
    prompts = windows_BT.gather(1, starts + torch.arange(passage))
    return _write(source, prompts, length, seed, progress, store, workers, _MORE)


def cache_bytes(shape: ModelShape, length: int) -> int:
    """Keys and values of the samples that are written together."""
    return _together(shape, length) * length * shape.kv_bytes_per_token(shape.dense_plan, 4)


def _together(shape: ModelShape, length: int) -> int:
    one = length * shape.kv_bytes_per_token(shape.dense_plan, 4)
    return max(1, min(_BATCH, _CACHE_BYTES // one))


def _write(
    source: Checkpoint,
    prompts: torch.Tensor,
    length: int,
    seed: int,
    progress: Progress,
    store: ArrayStore | None,
    workers: Workers | None,
    title: str,
) -> torch.Tensor:
    """Samples a batch; the result depends on the seed and on the batch's index, not on the worker."""
    from lathe.compressor.model.decoder import LayeredModel

    parts, each, rows = prompts.split(_together(source.shape, length)), length - prompts.shape[1], []
    batches = [(part, (seed + number * _STRIDE) % 2**63) for number, part in enumerate(parts, 1)]
    with progress.stage(title, len(batches) * each) as bar:
        seen = 0

        def advance() -> None:
            nonlocal seen
            seen += 1
            bar.advance()

        writer = _Writer(LayeredModel.open(source, store or ArrayStore()), length, advance)
        for number, written in enumerate((workers or LocalWorkers()).map(writer, batches), 1):
            rows.append(written)
            bar.advance(number * each - seen)
            seen = number * each
    return torch.cat(rows)


class _Writer:
    """Continues prompts up to a length.

    `advance` is called after every token of a batch, but not in another process.
    """

    def __init__(self, dense: LayeredModel, length: int, advance: Callable[[], None] = lambda: None) -> None:
        self._dense, self._length, self._advance = dense, length, advance

    def __reduce__(self) -> tuple[Any, ...]:
        return _Writer, (self._dense, self._length)

    @torch.inference_mode()
    def __call__(self, batch: tuple[torch.Tensor, int]) -> torch.Tensor:
        """Maps (prompts [B, T], seed) to tokens [B, length]."""
        (tokens, seed), dense = batch, self._dense
        generator = torch.Generator().manual_seed(seed)
        caches, start = [KVBuffers(self._length) for _ in range(len(dense.layers))], 0
        while (end := tokens.shape[1]) < self._length:
            hidden = embed(dense.embedding, tokens[:, start:], start)
            for index, cache in enumerate(caches):
                hidden = dense.runner.at(index).layer(dense.layers[index], hidden, (cache, start))
            logits = dense.head.logits(hidden[:, -1:])[:, 0].to(CPU)
            tokens = torch.cat([tokens, _drawn(logits, generator)], 1)
            start = end
            self._advance()
        return tokens


def _drawn(logits_BV: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draws a token [B, 1] from each row's distribution, by one number for each.

    `multinomial` draws one for every token of the vocabulary.
    """
    summed = torch.softmax(logits_BV, -1).double().cumsum(-1)
    drawn = torch.rand(len(logits_BV), 1, generator=generator, dtype=torch.float64) * summed[:, -1:]
    return torch.searchsorted(summed, drawn, right=True).clamp_(max=logits_BV.shape[-1] - 1)


def _prompts(source: Checkpoint, count: int, generator: torch.Generator) -> torch.Tensor:
    bos = source.config.get("bos_token_id")
    if isinstance(bos, int):
        return torch.full((count, 1), bos)
    return torch.randint(source.shape.vocab_size, (count, 1), generator=generator)
