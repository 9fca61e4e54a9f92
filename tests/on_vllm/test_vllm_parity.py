"""Every kind of unevenness on vLLM: greedy tokens and log-probabilities are plain PyTorch's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from answers import NEW, Distance, ask, distance, engine, prompts

from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.model.checkpoint import Checkpoint
from support.tiny_llama import PLANS, VARIANTS, checkpoint, pruned, reference

TINY = {"head_dim": 32, "max_position_embeddings": 512}
EXACT = 1e-4


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    return {
        name: checkpoint(tmp_path_factory.mktemp("dense"), **TINY | changes)
        for name, changes in VARIANTS.items()
    }


def served(directory: Path, source: Checkpoint, plan: str, **options: object) -> Distance:
    """A batch of ragged prompts: what vLLM makes of the checkpoint, against the zeroed dense model."""
    export_checkpoint(directory, pruned(source, PLANS[plan]))
    with engine(directory, **options) as llm:
        answers = ask(llm, prompts())
    assert [len(answer.new) for answer in answers] == [NEW] * len(answers)
    return distance(reference(source, PLANS[plan]), answers)


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan(tmp_path: Path, sources: dict[str, Checkpoint], plan: str) -> None:
    found = served(tmp_path, sources["plain"], plan)
    assert found.misses == []
    assert found.largest < EXACT


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "plain"])
def test_every_variant(tmp_path: Path, sources: dict[str, Checkpoint], variant: str) -> None:
    found = served(tmp_path, sources[variant], "mixed")
    assert found.misses == []
    assert found.largest < EXACT


@pytest.mark.parametrize("head_dim", [48, 64, 80])
def test_other_head_sizes(tmp_path: Path, head_dim: int) -> None:
    found = served(tmp_path / "out", checkpoint(tmp_path / "dense", **TINY | {"head_dim": head_dim}), "mixed")
    assert found.misses == []
    assert found.largest < EXACT


def test_the_comparison_notices_one_wrong_layer(tmp_path: Path, sources: dict[str, Checkpoint]) -> None:
    export_checkpoint(tmp_path, pruned(sources["plain"], PLANS["ffn"]))
    with engine(tmp_path) as llm:
        found = distance(reference(sources["plain"], PLANS["dense"]), ask(llm, prompts()))
    assert found.misses
    assert found.largest > 100 * EXACT


def test_bfloat16_by_margin(tmp_path: Path) -> None:
    """Rounding may turn a close choice: only a close one, and as in the dense model."""
    source = checkpoint(tmp_path / "dense", dtype=torch.bfloat16, **TINY)
    dense = served(tmp_path / "even", source, "dense", dtype="bfloat16")
    mixed = served(tmp_path / "mixed", source, "mixed", dtype="bfloat16")
    assert max(dense.misses + mixed.misses, default=0.0) < 0.1
    assert mixed.largest < 2 * dense.largest
