"""Every kind of unevenness on vLLM: greedy tokens and log-probabilities are plain PyTorch's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from answers import NEW, Distance, ask, distance, engine, prompts

from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.export.shared_checkpoints import share_checkpoints
from lathe.compressor.model.checkpoint import Checkpoint
from support.tiny_llama import PLANS, VARIANTS, checkpoint, plan, pruned, reference

TINY = {"head_dim": 32, "max_position_embeddings": 512}
EXACT = 1e-4


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    return {
        name: checkpoint(tmp_path_factory.mktemp("dense"), **TINY | changes)
        for name, changes in VARIANTS.items()
    }


def served(directory: Path, source: Checkpoint, name: str, **options: object) -> Distance:
    """A batch of ragged prompts: what vLLM makes of the checkpoint, against the zeroed dense model."""
    export_checkpoint(directory, pruned(source, PLANS[name]))
    with engine(directory, **options) as llm:
        answers = ask(llm, prompts())
    assert [len(answer.new) for answer in answers] == [NEW] * len(answers)
    return distance(reference(source, PLANS[name]), answers)


@pytest.mark.parametrize("name", PLANS)
def test_every_plan(tmp_path: Path, sources: dict[str, Checkpoint], name: str) -> None:
    found = served(tmp_path, sources["plain"], name)
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


def test_files_with_rows_of_a_wider_subnet(tmp_path: Path, sources: dict[str, Checkpoint]) -> None:
    plans = {"wide": PLANS["dense"], "narrow": plan((4, 2, 32), (0, 0, 64), (6, 3, 0), (4, 4, 32))}
    for name, subnet in plans.items():
        export_checkpoint(tmp_path / name, pruned(sources["plain"], subnet))
    share_checkpoints([tmp_path / name for name in plans])
    with engine(tmp_path / "narrow") as llm:
        found = distance(reference(sources["plain"], plans["narrow"]), ask(llm, prompts()))
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
