"""Every family with embeddings that are the head's, too, and that are not; in one file and in shards."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from lathe.compressor.model.checkpoint import Checkpoint
from support.family_checks import (
    ONNX,
    QUANTIZED,
    TORCH,
    checkpoint_difference,
    onnx_difference,
    quantized_difference,
)
from support.shown import Shows
from support.tiny_families import FIRST, STORED, TIED, stored_checkpoint


@pytest.fixture(scope="module", params=list(product(FIRST, TIED, STORED)), ids=", ".join)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return stored_checkpoint(tmp_path_factory.mktemp("dense"), *request.param)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> str:
    return ", ".join(request.node.callspec.params["source"])


def test_it_is_stored_as_it_says(source: Checkpoint, case: str) -> None:
    assert source.shape.tied_embeddings == (", tied" in case)
    assert (len({entry.file for entry in source.index.values()}) > 1) == case.endswith("shards")


def test_the_checkpoint(source: Checkpoint, case: str, tmp_path: Path, shows: Shows) -> None:
    assert shows("checkpoint", case)(checkpoint_difference(tmp_path, source, "mixed")) <= TORCH


def test_the_graph(source: Checkpoint, case: str, tmp_path: Path, shows: Shows) -> None:
    assert shows("onnx", case)(onnx_difference(tmp_path, source, "mixed")) <= ONNX


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_graphs(source: Checkpoint, case: str, tmp_path: Path, bits: int, shows: Shows) -> None:
    assert shows(f"onnx-int{bits}", case)(quantized_difference(tmp_path, source, "mixed", bits)) <= QUANTIZED
