"""Two processes that share a model: tensor parallel and pipeline parallel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from answers import ask, distance, engine, prompts
from test_vllm_parity import EXACT, TINY

from lathe.compressor.export.checkpoint import export_checkpoint
from support.tiny_families import family_checkpoint, first_of_each, zeroed
from support.tiny_llama import DENSE, checkpoint, plan, pruned, reference

EVEN_COUNTS = plan((4, 2, 96), (0, 0, 40), (2, 1, 34), (8, 4, 0))
STAGES = plan((0, 0, 0), DENSE, (0, 0, 33), (3, 3, 17))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("subnet", "options"),
    [
        (EVEN_COUNTS, {"tensor_parallel_size": 2}),
        # vLLM's CPU build cannot run stages uncompiled: it never makes room for what they hand on
        (STAGES, {"pipeline_parallel_size": 2, "enforce_eager": False}),
    ],
    ids=["tensor", "pipeline"],
)
def test_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subnet: object, options: dict[str, object]
) -> None:
    monkeypatch.setitem(os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    source = checkpoint(tmp_path / "dense", **TINY)
    export_checkpoint(tmp_path / "out", pruned(source, subnet))
    with engine(tmp_path / "out", distributed_executor_backend="mp", **options) as llm:
        found = distance(reference(source, subnet), ask(llm, prompts()))
    assert found.misses == []
    assert found.largest < EXACT


@pytest.mark.slow
def test_norms_of_all_heads_are_of_all_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    source = family_checkpoint(tmp_path / "dense", "olmo2", head_dim=32)
    export_checkpoint(tmp_path / "out", first_of_each(source, EVEN_COUNTS))
    with engine(tmp_path / "out", distributed_executor_backend="mp", tensor_parallel_size=2) as llm:
        found = distance(zeroed(source, EVEN_COUNTS), ask(llm, prompts()))
    assert found.misses == []
    assert found.largest < EXACT
