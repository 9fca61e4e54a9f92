"""int8, int4 and mixed graphs of every family."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.family_checks import (
    QUANTIZED,
    calibrated_difference,
    known,
    mixed_difference,
    quantized_difference,
)
from support.shown import Shows
from support.tiny_families import family_checkpoint, planned, rounded_blocks

STACKED = (
    "llama, biased",
    "qwen3",
    "phi3, partly rotated, window",
    "gemma2",
    "olmo2, biased",
    "gpt_neox",
    "opt",
    "qwen3_moe",
    "gpt_oss",
)
"""Every way in which matrices are stacked and reordered, blocks follow each other, and biases are added."""


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("case", known("onnx-int8"))
def test_a_quantized_graph_is_its_matrices(tmp_path: Path, case: str, bits: int, shows: Shows) -> None:
    near = shows(f"onnx-int{bits}", case)
    source = family_checkpoint(tmp_path / "dense", case)
    assert near(quantized_difference(tmp_path, source, "mixed", bits)) <= QUANTIZED


@pytest.mark.parametrize("case", STACKED)
def test_a_graph_has_the_matrices_that_were_rounded_on_text(tmp_path: Path, case: str) -> None:
    source = family_checkpoint(tmp_path / "dense", case)
    assert calibrated_difference(tmp_path, source, "groups", 4) <= QUANTIZED


@pytest.mark.parametrize("case", known("onnx-mixed"))
def test_blocks_are_quantized_as_the_plan_says(tmp_path: Path, case: str, shows: Shows) -> None:
    near = shows("onnx-mixed", case)
    source = family_checkpoint(tmp_path / "dense", case)
    plan = rounded_blocks(planned(source, "groups"))
    assert near(mixed_difference(tmp_path, source, plan)) <= QUANTIZED
