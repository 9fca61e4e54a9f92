"""What vLLM does with its cache and its batches changes no answer of an uneven model."""

from __future__ import annotations

from pathlib import Path

import pytest
from answers import LENGTHS, ask, distance, engine, prompts
from test_vllm_parity import EXACT, TINY
from torch import nn

from lathe.compressor.export.checkpoint import export_checkpoint
from support.tiny_llama import PLANS, checkpoint, pruned, reference

BLOCK = 128  # tokens of a cache block on CPU: what prefix caching shares


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A checkpoint with every kind of unevenness, and its reference."""
    directory = tmp_path_factory.mktemp("mixed")
    source = checkpoint(directory / "dense", **TINY)
    export_checkpoint(directory / "out", pruned(source, PLANS["mixed"]))
    return directory / "out", reference(source, PLANS["mixed"])


def test_prefix_caching(mixed: tuple[Path, nn.Module]) -> None:
    with engine(mixed[0], enable_prefix_caching=True) as llm:
        first, again = (ask(llm, prompts(), score_prompts=False) for _ in range(2))
    assert [answer.cached for answer in again] == [length // BLOCK * BLOCK for length in LENGTHS]
    assert [answer.ids for answer in again] == [answer.ids for answer in first]
    found = distance(mixed[1], again)
    assert found.misses == []
    assert found.largest < EXACT


def test_chunked_prefill(mixed: tuple[Path, nn.Module]) -> None:
    """Prompts of up to 300 tokens, at most 40 of all requests in one step."""
    with engine(mixed[0], max_num_batched_tokens=40, max_num_seqs=8) as llm:
        found = distance(mixed[1], ask(llm, prompts(), score_prompts=False))
    assert found.misses == []
    assert found.largest < EXACT


def test_equal_memory_holds_more_tokens(tmp_path: Path, mixed: tuple[Path, nn.Module]) -> None:
    """4 KV heads in each of four layers, against 3 and 2 in two: a token takes 5 heads' memory, not 16."""
    export_checkpoint(tmp_path, pruned(checkpoint(tmp_path / "dense", **TINY), PLANS["dense"]))
    blocks = []
    for directory in (tmp_path, mixed[0]):
        with engine(directory, num_gpu_blocks_override=None) as llm:
            blocks.append(llm.llm_engine.vllm_config.cache_config.num_gpu_blocks)
    assert blocks[1] / blocks[0] == pytest.approx(16 / 5, rel=1e-3)


def test_a_head_size_without_a_kernel_is_refused_at_the_start(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "dense", **TINY | {"head_dim": 16})
    export_checkpoint(tmp_path / "out", pruned(source, PLANS["mixed"]))
    with pytest.raises(ValueError, match="no CPU attention kernel for heads of size 16; it has them for 32"):
        engine(tmp_path / "out").__enter__()
