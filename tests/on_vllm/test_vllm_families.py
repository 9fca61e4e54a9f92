"""Subnets of every family on vLLM: greedy tokens and log-probabilities are those of transformers' own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from answers import ask, distance, engine, prompts
from tiny_families import CASES, PLANS, family_checkpoint, first_of_each, planned, zeroed

from compressor.export import exporters
from compressor.export.vllm import check_served, export_vllm
from compressor.families import families

EXACT = 1e-4
Note = Callable[[str, object], None]
KNOWN = {name for name in families.known() if exporters.get("vllm").knows(families.get(name))} - {"llama"}
OTHERS = [case for case, settings in CASES.items() if settings["model_type"] in KNOWN]


@pytest.mark.parametrize("plan", ["dense", "mixed"])
@pytest.mark.parametrize("case", OTHERS)
def test_every_family(tmp_path: Path, case: str, plan: str, record_property: Note) -> None:
    source = family_checkpoint(tmp_path / "dense", case, head_dim=32)
    check_served(source)
    subnet = planned(source, plan)
    export_vllm(tmp_path / "out", first_of_each(source, subnet))
    with engine(tmp_path / "out") as llm:
        found = distance(zeroed(source, subnet), ask(llm, prompts()))
    record_property("vllm", found.largest)
    assert found.misses == []
    assert found.largest < EXACT


ROPES = {
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128},
}


@pytest.mark.parametrize("rope", ROPES)
def test_scaled_positions(tmp_path: Path, rope: str, record_property: Note) -> None:
    source = family_checkpoint(tmp_path / "dense", "llama, plain", head_dim=32, rope_parameters=ROPES[rope])
    export_vllm(tmp_path / "out", first_of_each(source, PLANS["dense"]))
    with engine(tmp_path / "out") as llm:
        found = distance(zeroed(source, PLANS["dense"]), ask(llm, prompts()))
    record_property("vllm", found.largest)
    assert found.misses == []
    assert found.largest < EXACT
