"""Uneven models of every family in onnxruntime-genai: greedy tokens and logits are transformers'."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as genai
import pytest
import torch
from generated import END, PADDING, Generated, generate, start

from lathe.artefact.onnx.graph_format import GRAPH
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.artefact.plan import Plan
from lathe.compressor.export.genai import add_genai
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.export.onnx.blockwise import Blockwise
from lathe.compressor.export.onnx.mixed import Mixed
from lathe.compressor.model.checkpoint import Checkpoint
from support.family_checks import keep_activations, known, logits
from support.tiny_families import CASES, family_checkpoint, first_of_each, planned, rounded_blocks, zeroed
from support.tiny_llama import PLANS, tokens

NEW = 20
EXACT = 1e-4


def exported(directory: Path, case: str, plan: str, matrices: Any = None) -> tuple[Checkpoint, Plan]:
    """Writes a subnet's folder; products of rounded weights read float32, so that batches do not matter."""
    ends = {"eos_token_id": END, "pad_token_id": PADDING}
    source = family_checkpoint(directory / "dense", case, **ends)
    widths = planned(source, plan)
    export_onnx(directory, first_of_each(source, widths), *([matrices] if matrices else []))
    keep_activations(directory / GRAPH)
    add_genai(directory, source)
    return source, widths


def misses(model: Any, prompts: list[np.ndarray], found: list[Generated]) -> tuple[float, int]:
    """The largest difference of logits, and how many tokens are not the model's likeliest."""
    largest, wrong = 0.0, 0
    for prompt, row in zip(prompts, found, strict=True):
        ids = torch.tensor([[*prompt.tolist(), *row.tokens.tolist()]])
        expected = logits(model, ids)[0, len(prompt) - 1 : -1].numpy()
        largest = max(largest, float(np.abs(row.logits - expected).max()))
        wrong += int((expected.argmax(1) != row.tokens).sum())
    return largest, wrong


@pytest.mark.parametrize("case", known("genai"))
def test_a_ragged_batch_of_every_family(tmp_path: Path, case: str) -> None:
    source, plan = exported(tmp_path, case, "no attention first")
    prompts = [tokens(20).numpy(), tokens(7, seed=2).numpy(), tokens(13, seed=3).numpy()]
    assert misses(zeroed(source, plan), prompts, generate(tmp_path, prompts, NEW)) == (
        pytest.approx(0, abs=EXACT),
        0,
    )


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("plan", PLANS)
def test_every_plan(tmp_path: Path, plan: str, shared: bool) -> None:
    """With caches of the longest length, and with caches that grow."""
    source, widths = exported(tmp_path, "llama, biased", plan)
    prompts = [tokens(20).numpy()]
    found = generate(tmp_path, prompts, NEW, past_present_share_buffer=shared)
    assert misses(zeroed(source, widths), prompts, found) == (pytest.approx(0, abs=EXACT), 0)


def served(folder: Path, prompt: np.ndarray, count: int) -> np.ndarray:
    """The logits after a prompt and each likeliest token, by ONNX Runtime on Lathe's own graph."""
    runner = OnnxRunner(folder / GRAPH, max_batch=1, max_length=64)
    rows = [runner.prefill(0, prompt)]
    while len(rows) < count:
        rows.append(runner.decode(rows[-1].argmax(1)))
    return np.concatenate(rows)


ROUNDED = {
    "int8": partial(Blockwise, bits=8),
    "int4": partial(Blockwise, bits=4),
    "mixed": partial(Mixed, plan=rounded_blocks(PLANS["groups"])),
}


@pytest.mark.parametrize("bits", ROUNDED)
@pytest.mark.parametrize("case", ["llama, tied", "gemma3_text", "qwen3"])
def test_rounded_weights_are_lathes_own(tmp_path: Path, case: str, bits: str) -> None:
    exported(tmp_path, case, "groups", ROUNDED[bits])
    prompts = [tokens(20).numpy(), tokens(7, seed=2).numpy()]
    found = generate(tmp_path, prompts, NEW)
    for row, prompt in zip(found, prompts, strict=True):
        expected = served(tmp_path, prompt, len(row.tokens))
        np.testing.assert_array_equal(row.tokens, expected.argmax(1))
        np.testing.assert_allclose(row.logits, expected, atol=EXACT, rtol=0)


@pytest.mark.parametrize("case", [case for case in CASES if case in ("mixtral", "gpt_oss")])
@pytest.mark.parametrize("bits", [8, 4])
def test_rounded_experts_are_lathes_own(tmp_path: Path, case: str, bits: int) -> None:
    exported(tmp_path, case, "groups", partial(Blockwise, bits=bits))
    prompt = tokens(20).numpy()
    (found,) = generate(tmp_path, [prompt], NEW)
    np.testing.assert_array_equal(found.tokens, served(tmp_path, prompt, len(found.tokens)).argmax(1))


def test_beams_are_those_of_transformers(tmp_path: Path) -> None:
    source, plan = exported(tmp_path, "llama, plain", "mixed")
    model, length = zeroed(source, plan), {"max_length": 40, "min_length": 40}
    for count in (2, 3):
        prompt = tokens(20, seed=count).numpy()
        generator = start(genai.Model(str(tmp_path)), [prompt], num_beams=count, **length)
        while not generator.is_done():
            generator.generate_next_token()
        options = {"num_beams": count, "pad_token_id": PADDING, "early_stopping": True} | length
        expected = model.generate(torch.from_numpy(prompt)[None], do_sample=False, **options)
        assert generator.get_sequence(0).tolist() == expected[0].tolist()


def test_a_conversation_goes_on_and_back(tmp_path: Path) -> None:
    source, plan = exported(tmp_path, "llama, plain", "mixed")
    model, ids = zeroed(source, plan), tokens(9, seed=4).numpy().astype(np.int32)
    generator = start(genai.Model(str(tmp_path)), [tokens(20).numpy()])

    def difference() -> float:
        expected = logits(model, torch.tensor([generator.get_sequence(0).tolist()]))[0, -1].numpy()
        return float(np.abs(np.array(generator.get_logits()).ravel() - expected).max())

    for _ in range(5):
        generator.generate_next_token()
    # This also has the library read the last token, which append_tokens would leave out.
    assert difference() < EXACT
    generator.append_tokens(ids)
    assert difference() < EXACT
    generator.rewind_to(11)
    generator.append_tokens(ids[:3])
    assert difference() < EXACT
