"""A trained model, compressed: vLLM against the transformers model that the checkpoint loads as."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from answers import Answer, ask, distance, engine
from test_vllm_parity import EXACT
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import DEMO
from lathe.artefact.modeling import LatheLlamaForCausalLM, register
from lathe.artefact.plan import Plan


def answers(artefact: Path, dtype: str) -> list[Answer]:
    """Continuations of stretches of held-out text, of many lengths, in one batch."""
    ids = AutoTokenizer.from_pretrained(artefact)((DEMO / "heldout.txt").read_text())["input_ids"]
    stretches = [ids[at : at + length] for at, length in ((0, 5), (400, 150), (900, 260), (1500, 40))]
    with engine(artefact, dtype=dtype) as llm:
        return ask(llm, stretches)


@pytest.fixture(scope="module")
def reference(artefact: Path) -> nn.Module:
    register()
    model = AutoModelForCausalLM.from_pretrained(artefact, dtype=torch.float32).eval()
    assert type(model) is LatheLlamaForCausalLM
    return model


def test_a_trained_subnet_in_float32(artefact: Path, reference: nn.Module) -> None:
    assert Plan.load(artefact / "plan.json").uneven
    found = distance(reference, answers(artefact, "float32"))
    assert found.misses == []
    assert found.largest < EXACT


def test_a_trained_subnet_in_bfloat16(artefact: Path, reference: nn.Module) -> None:
    found = distance(reference, answers(artefact, "bfloat16"))
    assert max(found.misses, default=0.0) < 0.05
    assert found.largest < 0.5
