"""Graphs with an int8 KV cache, of every family, against transformers with a cache that rounds the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.evaluate.onnx import OnnxModel
from lathe.compressor.export import Export
from lathe.compressor.export.artefact import export_of_artefact
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.model.cache_rounding import CacheScales
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.pipeline.parity import check_parity
from lathe.compressor.statistics.cache_scales import measure_cache_scales
from support.family_checks import opened, written
from support.tiny_families import FIRST, family_checkpoint, first_of_each, planned
from support.tiny_llama import PLANS, checkpoint, pruned, tokens

SOME = [*FIRST.values(), "phi3, partly rotated, window", "gemma2, low caps, untied", "smollm3, biased"]
FAR = 5e-3
"""Of the spread of logits: what rounding as such moves, at the least."""


def scaled(directory: Path, job: Export) -> tuple[Export, LayeredModel, dict[int, CacheScales]]:
    """Returns a job with the scales of its checkpoint, which is in `directory`, and the model of that."""
    write_json(directory / "plan.json", job.plan.to_json())
    model = LayeredModel.open(export_of_artefact(directory).source, ArrayStore())
    found = measure_cache_scales(model, tokens(4, 60, seed=1), ArrayStore())
    return replace(job, cache_scales=found.__getitem__), model, found


@pytest.mark.parametrize("case", SOME)
def test_every_family_reads_what_its_cache_holds(case: str, tmp_path: Path) -> None:
    source, plan = family_checkpoint(tmp_path / "dense", case), "no attention first"
    model: Any = written(tmp_path / "out", source, plan)
    job, layered, scales = scaled(tmp_path / "out", first_of_each(source, planned(source, plan)))
    export_onnx(tmp_path / "out", job)
    onnx.checker.check_model(str(tmp_path / "out" / "onnx" / "model.onnx"))
    opened(tmp_path / "out" / "onnx" / "model.onnx", 1, 1)
    ids = tokens(64)
    for reader in (model, layered):
        assert check_parity(reader, tmp_path / "out", ids, source, scales) < 2e-5
    plain = OnnxModel(tmp_path / "out").chunks(ids)
    with torch.no_grad():
        expected = model(ids[None]).logits[0]
    assert float((torch.cat([part for _, part in plain]) - expected).abs().max() / expected.std()) > FAR


@pytest.mark.parametrize("part", ["keys", "values"])
def test_a_graph_of_other_scales_does_not_pass(part: str, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "dense")
    model: Any = written(tmp_path / "out", source, "mixed")
    job, _, scales = scaled(tmp_path / "out", pruned(source, PLANS["mixed"]))
    export_onnx(tmp_path / "out", job)
    wrong = {i: replace(each, **{part: 1.02 * getattr(each, part)}) for i, each in scales.items()}
    with pytest.raises(UserError, match=r"off by .* codes|disagree by"):
        check_parity(model, tmp_path / "out", tokens(64), source, wrong)
