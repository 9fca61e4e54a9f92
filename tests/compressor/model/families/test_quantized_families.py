"""int8 and int4 graphs of every family."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.family_checks import QUANTIZED, known, quantized_difference
from support.shown import Shows
from support.tiny_families import family_checkpoint


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("case", known("onnx-int8"))
def test_a_quantized_graph_is_its_matrices(tmp_path: Path, case: str, bits: int, shows: Shows) -> None:
    near = shows(f"onnx-int{bits}", case)
    source = family_checkpoint(tmp_path / "dense", case)
    assert near(quantized_difference(tmp_path, source, "mixed", bits)) <= QUANTIZED
