"""GGUF exports of every family that llama.cpp has an architecture for, run there, against transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("llama_cpp")

from lathe.artefact.gguf_suffix import MODEL_FILE
from lathe.artefact.llamacpp.runner import LlamaCppRunner
from lathe.compressor.export import exporters
from lathe.compressor.model.checkpoint import Checkpoint
from support.hosted_models import HOSTED, hosted_checkpoint
from support.shown import Shows, shows
from support.tiny_families import first_of_each, planned, zeroed
from support.tiny_llama import PLANS, tokens

__all__ = ["shows"]
NEAR, ROUNDED_GELU = 2e-4, 4e-3
"""Gemma's GELU is a table of float16 values in llama.cpp."""
NEW = 16
RUNS = [(case, name) for case, (_, uneven) in HOSTED.items() for name in PLANS if uneven or name == "dense"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    return {case: hosted_checkpoint(tmp_path_factory.mktemp("dense"), case) for case in HOSTED}


@pytest.mark.parametrize(("case", "name"), RUNS)
def test_logits_are_those_of_transformers(
    sources: dict[str, Checkpoint], case: str, name: str, tmp_path: Path, shows: Shows
) -> None:
    near, source = shows("gguf", case), sources[case]
    plan = planned(source, name)
    exporters.get("gguf").write(tmp_path, first_of_each(source, plan))
    model = LlamaCppRunner(tmp_path / MODEL_FILE, max_batch=1, max_length=64, threads=1, cache="f32")
    prompt, reference = tokens(40), zeroed(source, plan)
    with torch.inference_mode():
        expected = reference(prompt[None]).logits[0].numpy()
    found = model.prefill(0, prompt.numpy(), "all")
    largest = ROUNDED_GELU if "gemma" in case else NEAR
    assert near(float(np.abs(found - expected).max())) <= largest
    assert _greedy(model, found[-1]) == _reference(reference, prompt)


def _greedy(model: LlamaCppRunner, last: np.ndarray) -> list[int]:
    found = [int(last.argmax())]
    while len(found) < NEW:
        found.append(int(model.decode(np.array(found[-1:]))[0].argmax()))
    return found


@torch.inference_mode()
def _reference(model: torch.nn.Module, prompt: torch.Tensor) -> list[int]:
    ids = prompt.tolist()
    for _ in range(NEW):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[-NEW:]
