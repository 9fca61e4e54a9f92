"""Text that a model writes: tokens follow its distribution, and buffered keys change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from lathe.compressor.calibration.kv_buffers import KVBuffers
from lathe.compressor.calibration.selfgen import _drawn
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.model.checkpoint import open_checkpoint
from lathe.compressor.model.decoder import LayeredModel
from support.tiny_server import save_checkpoint


def test_tokens_are_drawn_as_often_as_the_logits_say() -> None:
    logits = torch.tensor([0.0, 2.0, -torch.inf, 1.0, -torch.inf]).repeat(40_000, 1)
    drawn = _drawn(logits, torch.Generator().manual_seed(0))
    shares = drawn.flatten().bincount(minlength=5) / len(logits)
    assert drawn.shape == (40_000, 1)
    assert shares.tolist() == pytest.approx(logits[0].softmax(0).tolist(), abs=0.01)
    assert shares[2] == shares[4] == 0


def test_a_token_of_probability_one_is_always_drawn() -> None:
    logits = torch.full((1000, 7), -torch.inf)
    logits[:, 6] = 0.0
    assert _drawn(logits, torch.Generator().manual_seed(1)).eq(6).all()


def test_buffers_return_what_a_dynamic_cache_does() -> None:
    generator, mine, theirs = torch.Generator().manual_seed(0), KVBuffers(9), DynamicCache()
    for length in (4, 1, 3, 1):
        keys, values = torch.randn(2, 2, 3, length, 5, generator=generator)
        for found, expected in zip(mine.update(keys, values, 0), theirs.update(keys, values, 0), strict=True):
            assert torch.equal(found, expected)


@torch.inference_mode()
def test_tokens_one_by_one_give_the_logits_of_the_whole_text(tmp_path: Path) -> None:
    model = LayeredModel.open(open_checkpoint(str(save_checkpoint(tmp_path / "tiny"))), ArrayStore())
    tokens = torch.arange(3 * 12).view(3, 12) % model.source.shape.vocab_size
    caches, found = [KVBuffers(12) for _ in model.layers], []
    for start in range(12):
        hidden = model.embedding[tokens[:, start : start + 1]]
        for index, cache in enumerate(caches):
            hidden = model.runner.at(index).layer(model.layers[index], hidden, (cache, start))
        found.append(model.head.logits(hidden))
    torch.testing.assert_close(torch.cat(found, 1), model(tokens).logits, rtol=1e-4, atol=1e-4)
