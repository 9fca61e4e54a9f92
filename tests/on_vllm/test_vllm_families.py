"""Subnets of every family on vLLM: greedy tokens and log-probabilities are those of transformers' own."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from answers import ask, distance, engine, prompts

from lathe.artefact.errors import UserError
from lathe.compressor.export import exporters
from lathe.compressor.export.vllm import check_served, export_vllm
from lathe.compressor.model.families import families
from support.shown import Shows
from support.tiny_families import (
    CASES,
    FIRST,
    PLANS,
    STORED,
    TIED,
    family_checkpoint,
    first_of_each,
    planned,
    stored_checkpoint,
    zeroed,
)

EXACT, CAPPED = 1e-4, 2e-2
"""The second where scores of attention have a soft cap: vLLM's CPU kernel rounds there."""
KNOWN = {name for name in families.known() if exporters.get("vllm").knows(families.get(name))}
OTHER_GATES = "gpt_oss, low limit, unscaled"
OTHERS = [case for case, settings in CASES.items() if settings["model_type"] in KNOWN and case != OTHER_GATES]


@pytest.mark.parametrize("plan", ["dense", "mixed"])
@pytest.mark.parametrize("case", OTHERS)
def test_every_family(tmp_path: Path, case: str, plan: str, shows: Shows) -> None:
    near = shows("vllm", case)
    source = family_checkpoint(tmp_path / "dense", case, head_dim=32)
    check_served(source)
    subnet = planned(source, plan)
    export_vllm(tmp_path / "out", first_of_each(source, subnet))
    with engine(tmp_path / "out") as llm:
        found = distance(zeroed(source, subnet), ask(llm, prompts()))
    bound = CAPPED if source.config.get("attn_logit_softcapping") else EXACT
    assert near(found.largest) < bound
    assert all(miss < bound for miss in found.misses)


def test_gates_that_its_kernels_have_not_are_refused(tmp_path: Path) -> None:
    source = family_checkpoint(tmp_path, OTHER_GATES, head_dim=32)
    with pytest.raises(UserError, match=r"vLLM has no experts with a `swiglu_alpha` of 1\.2\. It has 1\.702"):
        check_served(source)


@pytest.mark.slow
@pytest.mark.parametrize(("tied", "stored"), list(product(TIED, STORED)))
@pytest.mark.parametrize("family", [family for family in FIRST if family in KNOWN])
def test_every_family_as_it_is_stored(
    tmp_path: Path, family: str, tied: str, stored: str, shows: Shows
) -> None:
    near = shows("vllm", f"{family}, {tied}, {stored}")
    source = stored_checkpoint(tmp_path / "dense", family, tied, stored, head_dim=32)
    subnet = planned(source, "mixed")
    export_vllm(tmp_path / "out", first_of_each(source, subnet))
    with engine(tmp_path / "out") as llm:
        found = distance(zeroed(source, subnet), ask(llm, prompts()))
    assert near(found.largest) < (CAPPED if source.config.get("attn_logit_softcapping") else EXACT)


@pytest.mark.parametrize("plan", ["dense", "mixed"])
@pytest.mark.parametrize("case", [case for case in OTHERS if CASES[case]["model_type"] == "gemma2"])
def test_capped_scores_are_those_of_vllms_own_gemma(tmp_path: Path, case: str, plan: str) -> None:
    """Tied: vLLM's own knows no other."""
    source = family_checkpoint(tmp_path / "dense", case, head_dim=32, tie_word_embeddings=True)
    subnet = planned(source, plan)
    export_vllm(tmp_path / "ours", first_of_each(source, subnet))
    zeroed(source, subnet).save_pretrained(tmp_path / "vllms")
    answers = []
    for checkpoint in ("ours", "vllms"):
        with engine(tmp_path / checkpoint) as llm:
            answers.append(ask(llm, prompts()))
    for ours, theirs in zip(*answers, strict=True):
        assert ours.new == theirs.new
        for at, scores in ours.scored.items():
            shared = scores.keys() & theirs.scored[at].keys()
            assert shared
            assert all(abs(scores[token] - theirs.scored[at][token]) < EXACT for token in shared)


ROPES = {
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128},
}


@pytest.mark.parametrize("rope", ROPES)
def test_scaled_positions(tmp_path: Path, rope: str, shows: Shows) -> None:
    near = shows("vllm", f"llama, {rope} rope")
    source = family_checkpoint(tmp_path / "dense", "llama, plain", head_dim=32, rope_parameters=ROPES[rope])
    export_vllm(tmp_path / "out", first_of_each(source, PLANS["dense"]))
    with engine(tmp_path / "out") as llm:
        found = distance(zeroed(source, PLANS["dense"]), ask(llm, prompts()))
    assert near(found.largest) < EXACT
    assert found.misses == []
